"""The public surface: what `import distilrl` offers, all of it documented and typed."""

import inspect

import distilrl

PUBLIC = {
    "Behaviour", "Bounds", "Budget", "Categorical", "Choices", "Comparison", "ComputeConfig", "DataConfig",
    "DistilError", "EnvError", "EnvInfo", "EnvRef", "Event", "ExtraError", "FileError", "Gaussian", "Head",
    "Job", "Network", "NetworkSpec", "NotFiniteError", "ObsSpec", "OptimConfig", "Play", "Point", "Policy",
    "RECIPES", "ResumeError", "RewardConfig", "Schedule", "SpecError", "StopConfig", "StudentConfig",
    "TaskFile", "Teacher", "TeacherError", "TeacherFile", "Term", "TrainConfig", "Trained", "TreeConfig",
    "Watch", "__version__", "build", "describe_env", "distill", "distill_chain", "distill_seeds",
    "distill_tree", "ensemble", "evaluate_against", "evaluate_policy", "export_policy", "inspect",
    "inspect_play", "load_network", "load_teacher", "make_config", "make_vec_env", "plan", "play", "recipe",
    "reptile", "save_network", "term", "train", "train_teacher", "trust", "verify", "write_report",
}  # fmt: skip


def test_surface_is_pinned():
    assert set(distilrl.__all__) == PUBLIC
    assert all(hasattr(distilrl, name) for name in PUBLIC)


def test_everything_public_is_documented_and_typed():
    for name in PUBLIC - {"__version__", "RECIPES", "Event", "Term", "Watch"}:
        thing = getattr(distilrl, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name


def test_version_has_a_changelog_entry():
    from pathlib import Path

    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {distilrl.__version__}" in changelog
