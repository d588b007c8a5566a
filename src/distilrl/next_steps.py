"""What to do next, as commands with the folder's name in them."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilrl.envs import describe_env
from distilrl.results import Results, TeacherResults
from distilrl.runs import RunFolder
from distilrl.spaces import EnvRef
from distilrl.summaries import AnyResults, PlanResults, SeedsResults, TasksResults

Words = list[str | Path]
EXPORT = "a file to ship; to onnx, int8, torch or web too"


def next_commands(results: AnyResults, out: Path) -> list[tuple[str, str]]:
    """What each command is for, and the command.

    Example::

        next_commands(results, Path("runs/pong"))[0]  # ('teacher and student side by side', 'distilrl watch runs/pong')
    """
    return [(why, shlex.join(map(str, ["distilrl", *words]))) for why, words in next_steps(results, out)]


def next_steps(results: AnyResults, out: Path) -> Iterator[tuple[str, Words]]:
    """What each command is for, and its words without the program's name."""
    match results:
        case TeacherResults():
            other = out.with_name(f"{out.name}-student")
            spec = "cnn:16,16,16:64" if results.student.name.startswith("cnn") else "mlp:16"
            small: Words = ["--env", results.env, "--student", spec, "--out", other]
            yield "a small student of it", ["distill", "--teacher", out, *small]
        case PlanResults(winner=None):
            ref = EnvRef.from_json(results.environment, "environment")
            env, sizes = _env_words(ref), RunFolder(out).read_config().get("given", {}).get("sizes", ())
            named: Words = ["--sizes", *sizes] if sizes else []
            longer: Words = ["--steps", str(2 * results.env_steps), "--out", out.with_name(f"{out.name}-longer")]
            seen = _seen_words(RunFolder(out), ref)
            yield "a longer search", ["plan", "--teacher", results.teacher, *env, *seen, *named, *longer]
        case PlanResults():
            trust = _trust(results.environment)
            yield "the smallest student beside its teacher", ["watch", out, *trust]
            yield EXPORT, ["export", out, "--to", "c", *trust]
        case SeedsResults(runs=runs):
            best = max(runs, key=lambda run: run.student.return_mean)
            home = out / f"seed-{best.seed}"
            yield f"{EXPORT}, of the best of them", ["export", home, "--to", "c", *_trust(best.environment)]
            yield "other studies beside it", ["compare", out, "OTHER"]
        case TasksResults(tasks=tasks):
            for run in tasks:
                home = RunFolder(out).of_task(run.env).path
                yield f"{EXPORT}, of {run.env}", ["export", home, "--to", "c", *_trust(run.environment)]
        case Results():
            yield from _of_run(results, RunFolder(out))


def _of_run(results: Results, folder: RunFolder) -> Iterator[tuple[str, Words]]:
    """What follows one student's verdict."""
    files = folder.read_config().get("train", {}).get("tasks", [{}])[0].get("teacher", [])
    teacher = files[0].get("path") if len(files) == 1 else None
    judged_in = results.verdict_environment or results.environment
    ref = EnvRef.from_json(judged_in, "environment")
    env, trust, out = _env_words(ref), _trust(judged_in), folder.path
    match results.verdict.result:
        # what is played against is read without such answers
        case "inconclusive" if teacher is not None and not (files[0].get("reads") or files[0].get("member")):
            again: Words = ["evaluate", out, *env, "--against", teacher, "--episodes", "1000"]
            yield "more episodes, until there is a verdict", again
        case "fail" if teacher is not None:
            larger = out.with_name(f"{out.name}-plan")
            plan: Words = ["plan", "--teacher", teacher, *env, *_seen_words(folder, ref), "--out", larger]
            yield "the smallest size that keeps the score", plan
    if folder.tree.is_file():
        yield "its C file, played itself", ["verify", out / "export", *trust]
        return
    yield "teacher and student side by side", ["watch", out, *trust]
    if results.verdict.holds:
        yield EXPORT, ["export", out, "--to", "c", *trust]


def _trust(environment: dict[str, Any]) -> Words:
    """What a command needs to import an environment that a file names."""
    modules = EnvRef.from_json(environment, "environment").modules
    return [word for module in dict.fromkeys(modules) for word in ("--trust", module)]


def _seen_words(folder: RunFolder, env: EnvRef) -> Words:
    """What a run's student saw otherwise than its teacher, and what its teacher read, as options."""
    train = folder.read_config().get("train", {})
    student, files = train.get("student", {}), train.get("tasks", [{}])[0].get("teacher") or [{}]
    hidden = student.get("hidden_features", ())
    names = describe_env(env).obs.names if hidden else ()
    words: Words = [word for place in hidden for word in ("--hide", names[place])]
    if noise := student.get("noise"):
        words += ["--student-noise", ",".join(f"{one:g}" for one in noise)]
    words += [
        word
        for name in ("delay", "dropout", "flicker")
        if student.get(name)
        for word in (f"--student-{name}", str(student[name]))
    ]
    words += [word for name in files[0].get("reads", ()) for word in ("--teacher-reads", name)]
    return [*words, "--teacher-member", files[0]["member"]] if files[0].get("member") else words


def _env_words(env: EnvRef) -> Words:
    """An environment as options."""
    words: Words = ["--env", env.id]
    words += ["--env-kwargs", json.dumps(env.kwargs)] if env.kwargs else []
    for wrapper in env.wrappers:
        words += ["--wrapper", wrapper]
    words += ["--grey"] if env.grey else []
    words += ["--resize", *map(str, env.resize)] if env.resize else []
    return [*words, "--stack", str(env.stack)] if env.stack > 1 else words
