"""What to do next, as commands with the folder's name in them."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilrl.checkpoints import load_network
from distilrl.envs import asked_of, describe_env, find_spec
from distilrl.errors import DistilError
from distilrl.limits import MAX_EPISODES
from distilrl.measures import Measure
from distilrl.results import Results, TeacherResults
from distilrl.runs import RunFolder
from distilrl.spaces import EnvRef
from distilrl.specs import NetworkSpec, spelled, suggest
from distilrl.summaries import AnyResults, PlanResults, SeedsResults, TasksResults
from distilrl.targets import PROPOSED, listed, targets_of
from distilrl.text import typed
from distilrl.verdict import HOLDS, MIN_DISTINCT, units_in_words
from distilrl.widths import scaled

Words = list[str | Path]
OF_TEACHER = {"network", "output", "reads", "member"}
"""Fields of a teacher's file whose options begin with ``--teacher-``."""
SENSORS = ("noise", "delay", "dropout", "flicker")
"""Fields of a student whose options begin with ``--student-``; the first is of several numbers."""

USUAL = {
    "--margin": ("comparison.margin", 0.05),
    "--margin-abs": ("comparison.margin_abs", None),
    "--episodes": ("comparison.episodes", 100),
    "--eval-epsilon": ("train.eval_epsilon", 0.0),
    "--eval-envs": ("train.compute.eval_envs", 32),
    "--accept-episodes": ("accept_episodes", 20),
    "--accept-max-episodes": ("accept_max_episodes", None),
    "--workers": ("train.data.workers", 0),
    "--seed": ("train.seed", 0),
}
"""Of options of a verdict, where config.json has them, and what they are by default."""
PLAYED_ON = 3
"""Times as many episodes up to which an inconclusive verdict plays on, by the command line."""


def next_commands(results: AnyResults, out: Path) -> list[tuple[str, str]]:
    """What each command is for, and the command.

    Example::

        next_commands(results, Path("runs/pong"))[0]  # ('teacher and student side by side', 'distilrl watch runs/pong')
    """
    if made_by_function(RunFolder(out)):
        return []
    return [(why, typed(["distilrl", *words])) for why, words in next_steps(results, out)]


def made_by_function(folder: RunFolder) -> bool:
    """Whether an environment of a run was made by a function, whose name is none that a command could make it by."""
    for one in _environments(folder):
        if ":" not in one.id and not re.search(r"-v\d+$", one.id):  # else a registered one, or of a module
            try:
                find_spec(EnvRef(one.id))
            except DistilError:
                return True
    return False


def _environments(folder: RunFolder) -> list[EnvRef]:
    """Those of a run: where it learns, and where its verdict is taken."""
    config = folder.read_config()
    environments = [*(task["env"] for task in config.get("train", {}).get("tasks", [])), config.get("verdict_env")]
    return [EnvRef.from_json(one, "env") for one in environments if one]


def asked_with(most: int) -> str:
    """How a plan is asked with up to so many episodes, on the command line or else from Python."""
    return f"--episodes {most // PLAYED_ON}" if most % PLAYED_ON == 0 else f"Comparison(max_episodes={most})"


def next_steps(results: AnyResults, out: Path) -> Iterator[tuple[str, Words]]:
    """What each command is for, and its words without the program's name."""
    match results:
        case TeacherResults():
            other = _beside(out, "student")
            picture = load_network(RunFolder(out).student).network.spec.picture
            spec = suggest(picture) if picture is not None else "mlp:16"
            (task,) = RunFolder(out).read_config()["train"]["tasks"]
            env = _env_words(EnvRef.from_json(task["env"], "env"))
            yield "a small student of it", ["distill", "--teacher", out, *env, "--student", spec, "--out", other]
        case PlanResults(winner=None):
            folder = RunFolder(out)
            if results.undecided and judges_of(folder):  # which longer training would not change
                episodes = 4 * results.asked[-1] // PLAYED_ON
                more: Words = ["plan", "--resume", out, "--episodes", str(episodes), *trust_of(folder)]
                yield "verdicts of these students on other episodes, and more of them", more
                return
            if judges_of(folder):  # else it was not of a file
                steps = str(2 * _inside(folder.read_config(), "train.data.env_steps"))
                again: Words = ["plan", "--config", out / "config.json", "--steps", steps, *trust_of(folder)]
                yield "a longer search", [*again, "--out", _beside(out, "longer")]
        case PlanResults():
            trust = trust_of(RunFolder(out))
            yield "the smallest student beside its teacher", ["watch", out, *trust]
            student = RunFolder(out).with_student().student
            yield _export(out, load_network(student).network.spec if student.is_dir() else None, trust)
        case SeedsResults(runs=runs):
            best = max(runs, key=lambda run: run.student.return_mean)
            home = out / f"seed-{best.seed}"
            if results.worst in HOLDS:
                if (asked := _asked_anew(best, RunFolder(home))) is not None:
                    yield f"the best of them, which was chosen by these episodes, on others{_of_units(best)}", asked
                why, words = _export(home, _spec(best), trust_of(RunFolder(home)))
                yield f"{why}, of the best of them", words
            elif results.worst == "fail":
                yield from _smallest(best, RunFolder(home), out)
            yield "other studies beside it", ["compare", out, "OTHER"]
        case TasksResults(tasks=tasks):
            for run in (one for one in tasks if one.holds):
                task_home = RunFolder(out).of_task(run.env)
                why, words = _export(task_home.path, _spec(run), trust_of(task_home))
                yield f"{why}, of {run.env}", words
        case Results():
            yield from _of_run(results, RunFolder(out))


def _beside(out: Path, more: str) -> Path:
    """A folder next to another and named after it, also where that one is said as ``.`` or ``..``."""
    home = out if out.name.strip(".") else out.resolve()
    return home.parent / f"{home.name}-{more}"


def _of_run(results: Results, folder: RunFolder) -> Iterator[tuple[str, Words]]:
    """What follows one student's verdict."""
    trust, out = trust_of(folder), folder.path
    match results.worst:
        case "inconclusive" if (again := _asked_anew(results, folder)) is not None:
            yield f"a question of its own, on other episodes and more of them{_of_units(results)}", again
        case "fail":
            yield from _smallest(results, folder, out)
    if folder.tree.is_file():
        yield "its C file, played itself", ["verify", out / "export" / "c", *trust]
        return
    yield "teacher and student side by side", ["watch", out, *trust]
    if results.holds:
        yield _export(out, _spec(results), trust)


def _asked_anew(results: Results, folder: RunFolder) -> Words | None:
    """A run's student against its teacher on episodes that no run plays; None where there are none, or several
    teachers.
    """
    files = judges_of(folder)
    teacher = files[0].get("path") if len(files) == 1 else None
    if teacher is None or results.verdict.exact:
        return None
    ref = EnvRef.from_json(results.verdict_environment or results.environment, "environment")
    again: Words = ["evaluate", folder.path, *_env_words(ref), "--against", teacher, *_told_words(files[0])]
    epsilon = results.protocol.get("epsilon", 0.0)
    if _repeated(results):  # more of the same starts would be the same episodes
        epsilon = min(max(0.01, 2.0 * epsilon), 1.0)
    again += ["--epsilon", f"{epsilon:g}"] if epsilon else []
    again += ["--margin-abs", f"{results.verdict.margin:.6g}", "--episodes", str(_deciding(results)), "--fresh"]
    again += _unusual(folder.read_config(), "--accept-episodes")
    return [*again, *_measured_words(folder)]


def _deciding(results: Results) -> int:
    """As many episodes as can decide what is undecided."""
    verdicts = [results.verdict, *(one.verdict for one in results.measures if one.verdict is not None)]
    least = 1000
    for one in (one for one in verdicts if one.result == "inconclusive"):
        of_each = results.student.episodes / max(one.distinct, 1) if one.cluster is not None else 1.0
        # of so many equal differences the interval lies within the margin (verdict.difference_interval)
        least = max(least, math.ceil(4.3 * one.span / one.margin * of_each / 100) * 100)
    return min(least, MAX_EPISODES)


def _repeated(results: Results) -> bool:
    """Whether most of a verdict's episodes were the same ones again, and too few others for it to hold."""
    few = results.verdict.cluster is None and results.verdict.distinct < results.student.episodes / 2
    return few and not results.holds


def _of_units(results: Results) -> str:
    """What more episodes must bring where too few of them differed, or clusters were too few, for a verdict."""
    verdict = results.verdict
    if _repeated(results):
        return ", with random actions that tell them apart"
    if verdict.cluster is None or verdict.distinct >= MIN_DISTINCT:
        return ""
    return f", if they bring more than these {verdict.distinct} {units_in_words(verdict.cluster)}"


def _smallest(results: Results, folder: RunFolder, out: Path) -> Iterator[tuple[str, Words]]:
    """A plan, where a student lost too much; beside ``out``."""
    files = judges_of(folder)
    mean = _inside(folder.read_config(), "train.combine") in (None, "mean")  # as a plan asks several teachers
    if files and mean and _said_by_options(results):
        plan = [*_plan_words(folder, files, results), *_remembering_sizes(results)]
        yield "the smallest size that keeps within the margin", [*plan, "--out", _beside(out, "plan")]


def _said_by_options(results: Results) -> bool:
    """Whether options can say where the verdict is taken: they add to what training's environment is made with, and
    put the same around it.
    """
    if not results.verdict_environment:
        return True
    env, other = (EnvRef.from_json(one, "env") for one in (results.environment, results.verdict_environment))
    around = [(one.wrappers, one.grey, one.resize, one.stack) for one in (env, other)]
    return around[0] == around[1] and {**env.kwargs, **other.kwargs} == other.kwargs and env != other


def _export(out: Path, spec: NetworkSpec | None, trust: list[str]) -> tuple[str, Words]:
    """A file of a student, and what else can hold one like it."""
    held = targets_of(spec) if spec is not None else list(PROPOSED)
    target = "c" if "c" in held else held[0]
    others = [one for one in held if one != target]
    why = "a file to ship" + (f"; to {listed(others)} too" if others else "")
    return why, ["export", out, "--to", target, *trust]


def _spec(results: Results) -> NetworkSpec | None:
    """Of a run's student; None of a tree."""
    return NetworkSpec.from_json(results.student.spec) if "obs_shape" in results.student.spec else None


def trust_of(folder: RunFolder) -> list[str]:
    """What a command needs to import the environments of a run folder."""
    run = folder.read_config().get("train", {})
    modules = [module for one in _environments(folder) for module in asked_of(one)]
    modules += [one["loss"].partition(":")[0] for one in run.get("terms", []) if ":" in one.get("loss", "")]
    # what was defined in a script or a notebook no command can import
    return [word for module in dict.fromkeys(modules) if module != "__main__" for word in ("--trust", module)]


def judges_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The teachers whom a run's verdict is about, as a config.json has them: of a chain and its assistants the first,
    and not the assistant that taught.
    """
    config = folder.read_config()
    if folder.kind() in ("chain", "assistant"):
        return list(config.get("given", {}).get("teacher", []))
    return list(config.get("train", {}).get("tasks", [{}])[0].get("teacher", []))


def _plan_words(folder: RunFolder, files: list[dict[str, Any]], results: Results) -> Words:
    """A plan with these teachers and a run's environments, whose students see as that run's."""
    env = EnvRef.from_json(results.environment, "environment")
    words: Words = ["plan", "--teacher", *(file["path"] for file in files), *_told_words(files[0])]
    words += [*_env_words(env), *_seen_words(folder, env)]
    if results.verdict_environment:
        other = EnvRef.from_json(results.verdict_environment, "environment")
        words += ["--verdict-env", other.id] if other.id != env.id else []
        words += ["--verdict-env-kwargs", json.dumps(other.kwargs, ensure_ascii=False)] if other.kwargs else []
    return [*words, *_measured_words(folder), *_judged_words(folder)]


def _remembering_sizes(results: Results) -> Words:
    """Sizes for a plan of students that remember, which its own ladder has none of: the same network, and wider."""
    spec = _spec(results)
    if spec is None or not spec.remembers:
        return []
    real = results.student.name != spec.describe()  # whose ReLU is spelled out
    sizes = [*(scaled(spec, factor * spec.params) for factor in (4, 2)), spec]
    return ["--sizes", *dict.fromkeys(spelled(one, real=real) for one in sizes)]


def _judged_words(folder: RunFolder) -> Words:
    """How a run's teacher was accepted and its verdict taken, as options, where it is not as by default."""
    config = folder.read_config()
    absolute = _inside(config, USUAL["--margin-abs"][0]) is not None  # then nothing asks for the share
    words = _unusual(config, *(option for option in USUAL if option != "--margin" or not absolute))
    return [*words, "--accept-weak-teacher"] if config.get("accept_weak_teacher") else words


def _unusual(config: dict[str, Any], *options: str) -> Words:
    """Those of these options of `USUAL` that a configuration has otherwise than by default."""
    words: Words = []
    for option in options:
        path, usual = USUAL[option]
        told = _inside(config, path)
        words += [option, _number(told)] if told not in (None, usual) else []
    return words


def _number(value: float) -> str:
    """As an option takes it."""
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def _inside(data: Any, path: str) -> Any:
    """What lies at a path of names with dots, if it is there."""
    for name in path.split("."):
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _measured_words(folder: RunFolder) -> Words:
    """What a run measured beside the return, and by which clusters, as options."""
    comparison = folder.read_config().get("comparison", {})
    words = [word for one in comparison.get("measures", []) for word in ("--measure", Measure(**one).text)]
    return [*words, *(("--cluster", comparison["cluster"]) if comparison.get("cluster") else ())]


def _told_words(file: dict[str, Any]) -> Words:
    """What was told of a teacher's file, as options."""
    words: Words = []
    for name, told in file.items():
        option = f"--teacher-{name}" if name in OF_TEACHER else f"--{name}"
        for one in told if isinstance(told, list | tuple) else [told]:
            words += [option, str(one)] if one and name != "path" else []
    return words


def _student(folder: RunFolder) -> dict[str, Any]:
    """A run's student, as its config.json has it."""
    student: dict[str, Any] = folder.read_config().get("train", {}).get("student", {})
    return student


def _seen_words(folder: RunFolder, env: EnvRef) -> Words:
    """What a run's student saw otherwise than its teacher, as options."""
    student = _student(folder)
    hidden = student.get("hidden_features", ())
    texts = describe_env(env).obs.in_ranges(hidden) if hidden else ()
    words: Words = [word for text in texts for word in ("--hide", text)]
    if noise := student.get("noise"):
        words += ["--student-noise", ",".join(f"{one:g}" for one in noise)]
    words += [word for name in SENSORS[1:] if student.get(name) for word in (f"--student-{name}", str(student[name]))]
    return words


def _env_words(env: EnvRef) -> Words:
    """An environment as options."""
    words: Words = ["--env", env.id]
    words += ["--env-kwargs", json.dumps(env.kwargs, ensure_ascii=False)] if env.kwargs else []
    for wrapper in env.wrappers:
        words += ["--wrapper", wrapper]
    words += ["--grey"] if env.grey else []
    words += ["--resize", *map(str, env.resize)] if env.resize else []
    return [*words, "--stack", str(env.stack)] if env.stack > 1 else words
