"""Export: a student as a file for its target, replayed against the student before it is kept, with what is needed to check it again."""

import io
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilrl import stats
from distilrl.checkpoints import Stored, load_network, read_json, write_bytes, write_json
from distilrl.errors import DistilError, FileError, SpecError
from distilrl.evaluate import EXPORT_SEEDS, SELECT_SEEDS, VERDICT_SEEDS, Play, Tell, load_teachers, play, seeds_from, ticker
from distilrl.export import c, int8, onnx, qat, tflite, web
from distilrl.export.replay import Replayer, replayer
from distilrl.export.steps import steps
from distilrl.networks import Network
from distilrl.plain import check_number
from distilrl.runs import RunFolder
from distilrl.teachers import TeacherFile

__all__ = ["TARGETS", "Target", "export_policy", "verify"]

Target = Literal["onnx", "c", "int8", "torch", "tflite", "web"]
TARGETS: tuple[Target, ...] = ("onnx", "c", "int8", "torch", "tflite", "web")
STATES = 1000
"""Observations of the student's own play on which a file must answer as the student does."""
SELECTED_ON = 16
"""Episodes that choose among an integer file's candidates."""
TUNED_ON = 4
"""Plays of the student whose states fine-tuning learns from."""
GOLDEN = 64
"""Observations written beside the file."""
FORMAT = "distilrl-export"
WRITTEN = (
    "export.json", "golden.npz", "golden.bin", "example.py", "example.c", "index.html",
    "policy.onnx", "policy.pt2", "policy.tflite", "policy.c", "policy.h",
)  # fmt: skip
"""All files that an export may hold; anything else in its folder is the user's."""
RANKS = ("fail", "inconclusive", "pass")
TOLERANCE = 1e-5
"""Of action values, relative to the largest one; greedy actions may differ only between values closer than this."""
INT8_AGREEMENT = 0.9
"""An integer file that agrees with its student less often than this was not quantised well enough to be played at all."""


def export_policy(run: str | Path, target: Target, out: str | Path | None = None, *, tell: Tell | None = None) -> dict[str, Any]:
    """Writes a run's student for a target; the folder is complete only if the file answers as the student does.

    Args:
        run: run folder.
        target: ``onnx``, ``c`` (C99 floats), ``int8`` (integer C and ONNX QDQ; the verdict is run again), ``torch`` (torch.export),
            ``tflite`` (LiteRT) or ``web`` (a page with the C in WebAssembly).
        out: folder to write; ``RUN/export/TARGET`` by default.
        tell: called as the work goes on.

    Returns:
        The contents of ``export.json``.

    Raises:
        FileError: the run holds no student, the folder cannot be written, or the file does not answer as the student does.
        ExtraError: a package that the target needs is missing.
    """
    folder = RunFolder(run)
    if target not in TARGETS:
        raise SpecError(f"Unknown target '{target}': use one of {', '.join(TARGETS)}.")
    if not (folder.student / "spec.json").is_file():
        raise FileError(f"{folder.path} holds no student to export: give a run folder whose training has come to its first check.")
    stored = load_network(folder.student)
    stored.network.eval()
    env_id = str(stored.meta.get("env", ""))
    out = Path(out) if out is not None else own_place(folder, target)
    check_place(out)
    obs = recorded(stored.network, env_id, tell)
    card = _card(folder, stored, env_id, target)
    result = keep_export(out, stored.network, obs, card, lambda part: _write(part, stored.network, target, obs, card, tell), tell)
    return _tuned(folder, stored, out, obs, result, tell) if target == "int8" and _loses(result) else result


def _loses(card: dict[str, Any]) -> bool:
    """Whether integers fall short of the teacher by the verdict, or return less than the floats that they were made of."""
    played = [one for one in card["played"].values() if one["verdict"]]
    return any(one["verdict"]["result"] != "pass" or one["against_student"]["difference_ci95"][1] < 0 for one in played)


def _rank(card: dict[str, Any]) -> tuple[int, float]:
    """Verdicts first, then returns."""
    played = list(card["played"].values())
    return sum(RANKS.index(one["verdict"]["result"]) for one in played), sum(one["return_mean"] for one in played)


def _tuned(folder: RunFolder, stored: Stored, out: Path, obs: NDArray[Any], result: dict[str, Any], tell: Tell | None) -> dict[str, Any]:
    """Integers again, of the student fine-tuned against its teacher with everything rounded; kept where their verdict is better."""
    train = folder.read_config()["train"]
    try:
        files = [TeacherFile.from_json(file) for file in train["teacher"]]
        teacher = load_teachers(files, train["env_id"], train.get("combine", "mean"))
    except DistilError:  # its file is elsewhere by now: the integers stay as calibrated, with the verdict that they have
        return result
    temperature = float(read_json(folder.results)["temperature"])
    seen = np.concatenate([recorded(stored.network, result["env"], tell, number) for number in range(1, TUNED_ON + 1)])
    network = qat.fine_tune(stored.network, teacher.action_values, seen, temperature, scaled_head=train["scale_head"])
    card = _card(folder, stored, result["env"], "int8") | {"fine_tuned": True}

    def better(new: dict[str, Any]) -> bool:
        return _rank(new) > _rank(result)

    tuned = keep_export(out, network, obs, card, lambda part: _write(part, network, "int8", obs, card, tell), tell, wanted=better)
    return tuned if better(tuned) else result


def own_place(folder: RunFolder, target: str) -> Path:
    """``RUN/export/TARGET``.

    Raises:
        FileError: ``RUN/export`` is a link to somewhere else.
    """
    if (folder.path / "export").is_symlink():
        raise FileError(f"{folder.path / 'export'} is a symbolic link: remove it, or name the folder to write with --out.")
    return folder.path / "export" / target


def check_place(out: Path) -> None:
    """Makes sure that nothing but an earlier export would be replaced.

    Raises:
        FileError: there is something of the user's.
    """
    try:
        if out.is_symlink():
            raise FileError(f"{out} is a symbolic link: give --out the folder itself, or another one.")
        if not out.exists():
            return
        names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else ["a file"]
    except OSError as error:
        raise _unwritable(out, error) from None
    if names and not _is_export(out):
        raise FileError(f"{out} exists and is not an export that distilrl wrote: choose another --out, or move it away.")
    if foreign := [name for name in names if name not in WRITTEN]:
        raise FileError(f"{out} holds '{foreign[0]}', which no export wrote: move it elsewhere, or choose another --out.")


def _is_export(folder: Path) -> bool:
    card = folder / "export.json"
    try:
        data = read_json(card) if card.is_file() and not card.is_symlink() else None
    except FileError:  # not ours, or not whole: either way nothing to be replaced unasked
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def keep_export(
    out: Path,
    policy: Callable[[Tensor], Tensor],
    obs: NDArray[Any],
    card: dict[str, Any],
    write: Callable[[Path], list[str]],
    tell: Tell | None,
    *,
    wanted: Callable[[dict[str, Any]], bool] | None = None,
) -> dict[str, Any]:
    """Writes an export beside its place, replays it, and moves it into place only if it answers as the policy does.

    An earlier export is replaced, anything else there is refused, and whatever fails leaves the earlier one in place.

    Args:
        out: folder to write.
        policy: what the files must answer as.
        obs: (K, *obs_shape) observations to replay.
        card: what export.json shall say.
        write: writes the files into a folder and names those that can be played.
        tell: called as the work goes on.
        wanted: whether to keep an export of this card; always by default.

    Raises:
        FileError: the folder holds something else, cannot be written, or the files do not answer as the policy does.
    """
    target: Target = card["target"]
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # nobody else can know or enter it
    except OSError as error:
        raise _unwritable(out, error) from None
    part = work / "new"
    try:
        part.mkdir()
        files = write(part)
        opened = {name: replayer(part / name, obs[0].size, card["n_actions"]) for name in files}
        card["replay"] = {name: _replay(name, play_file, policy, obs, target) for name, play_file in opened.items()}
        card["files"] = {name: (part / name).stat().st_size for name in files}
        _golden(part, opened[files[0]], obs, target)
        write_json(part / "export.json", card)
        if target == "int8":
            card["played"] = {name: verify(part / name, tell=tell) for name in files}
            write_json(part / "export.json", card)
        if wanted is None or wanted(card):
            _swap(part, out, work / "old")
    except OSError as error:
        raise _unwritable(out, error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # not empty where an earlier export could not be put back: then it is kept there
            work.rmdir()
    return card | {"path": str(out)}


def _unwritable(out: Path, error: OSError) -> FileError:
    return FileError(f"Cannot write {out} ({error.strerror or error}): choose a writable folder with enough space.")


def _swap(new: Path, out: Path, aside: Path) -> None:
    """Puts ``new`` in the place of ``out``; the earlier export waits aside and is put back if that fails."""
    check_place(out)  # again: much time has passed
    earlier = out.exists()
    if earlier:
        out.rename(aside)
    try:
        new.rename(out)
    except BaseException:
        if earlier:
            aside.rename(out)
        raise
    if earlier:
        with suppress(OSError):  # the new one is in place; what cannot be removed stays aside
            for name in WRITTEN:  # by name, so that a file which came in between is not lost
                (aside / name).unlink(missing_ok=True)
            aside.rmdir()


def recorded(network: Callable[[Tensor], Tensor], env_id: str, tell: Tell | None, number: int = 0) -> NDArray[Any]:
    """A thousand observations of the student's own play, now and then disturbed; another thousand for each number."""
    episodes = 8
    how = Play(env_id, epsilon=0.05, keep_states=STATES, max_steps=20_000)
    states = play(network, how, seeds_from(EXPORT_SEEDS + number * episodes, episodes), tick=ticker(tell) if tell else None).states
    return states if len(states) >= STATES else np.concatenate([states] * -(-STATES // max(len(states), 1)))[:STATES]


def _card(folder: RunFolder, stored: Stored, env_id: str, target: Target) -> dict[str, Any]:
    """What export.json says; with a finished run, also what teacher and student did on the verdict's seeds."""
    card: dict[str, Any] = {
        "format": FORMAT,
        "target": target,
        "env": env_id,
        "obs_shape": list(stored.network.spec.obs_shape),
        "n_actions": stored.network.spec.n_actions,
        "network": stored.network.spec.describe(),
        "params": stored.network.spec.params,
        "student_sha256": stored.digest,
    }
    if folder.results.is_file() and folder.episodes.is_file():
        card |= reference(read_json(folder.results), read_json(folder.episodes))
    return card


def reference(results: dict[str, Any], episodes: dict[str, Any]) -> dict[str, Any]:
    """What export.json says of a finished run: its verdict, and what teacher and student did on the verdict's seeds."""
    return {
        "student_verdict": results["verdict"]["result"],
        "reference": {
            "teacher_returns": episodes["returns"]["teacher"],
            "student_returns": episodes["returns"]["student"],
            "random_return_mean": results["random"]["return_mean"],
            "margin": results["verdict"]["margin"],
            "epsilon": results["protocol"]["epsilon"],
        },
    }


def write_c(folder: Path, source: c.Source) -> None:
    """Writes a policy's C, its header, and an example that runs it on the golden observations."""
    for name, text in (("policy.h", source.header), ("policy.c", source.code), ("example.c", c.EXAMPLE)):
        write_bytes(folder / name, text.encode())


def _write(folder: Path, network: Network, target: Target, obs: NDArray[Any], card: dict[str, Any], tell: Tell | None) -> list[str]:
    """Writes the policy's files; returns those that can be played."""
    comment = f"{card['network']} for {card['env']}, student {card['student_sha256'][:12]}, written by distilrl"
    about = {k: card[k] for k in ("env", "network", "student_sha256")} | {"verdict": card.get("student_verdict", "none")}
    if target == "onnx":
        write_bytes(folder / "policy.onnx", onnx.write(network, about))
        return ["policy.onnx"]
    if target == "torch":
        example = torch.from_numpy(obs[:2].copy())
        program = torch.export.export(_Plain(network), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        archive = io.BytesIO()  # PyTorch's own writer aborts the process where the disk is full
        torch.export.save(program, archive)
        write_bytes(folder / "policy.pt2", archive.getvalue())
        return ["policy.pt2"]
    if target == "tflite":
        write_bytes(folder / "policy.tflite", tflite.write(_Plain(network), obs[:1]))
        return ["policy.tflite"]
    if target in ("c", "web"):
        source = c.write(steps(network, "C"), comment)
        files = ["policy.c"]
        if target == "web":
            golden = _few(obs)
            with torch.no_grad():
                actions = network(torch.from_numpy(golden)).argmax(1).numpy()
            text = web.page(web.wasm(source, network.spec.activation), card["env"], card["network"], golden, actions)
            write_bytes(folder / "index.html", text.encode())
    else:
        student = _integers(network, obs, card, tell)
        source = int8.write(student, comment)
        write_bytes(folder / "policy.onnx", onnx.write_int8(student, network.spec.obs_shape, about))
        files = ["policy.c", "policy.onnx"]
    card |= {"scratch_bytes": source.scratch_bytes, "weight_bytes": source.weight_bytes}
    write_c(folder, source)
    return files


def _integers(network: Network, obs: NDArray[Any], card: dict[str, Any], tell: Tell | None = None) -> int8.Quantised:
    """The student in integers, its activations cut off where it plays best on the selection seeds."""
    how = Play(card["env"], epsilon=card.get("reference", {}).get("epsilon", 0.0), max_steps=20_000)

    def mean_return(student: int8.Quantised) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            write_c(Path(scratch), int8.write(student, "candidate"))
            policy = _actions(replayer(Path(scratch) / "policy.c", obs[0].size, card["n_actions"]), card["n_actions"])
            games = play(policy, how, seeds_from(SELECT_SEEDS, SELECTED_ON), tick=ticker(tell) if tell else None)
            return stats.mean(games.returns)

    layers = steps(network, "integers")
    return max((int8.quantise(layers, obs, percentile=percentile) for percentile in int8.PERCENTILES), key=mean_return)


def _actions(answer: Replayer, n_actions: int) -> Callable[[Tensor], Tensor]:
    """A file as a policy: 1 for the action that it takes."""
    return lambda obs: torch.nn.functional.one_hot(torch.from_numpy(answer(obs.numpy()).actions), n_actions)


class _Plain(nn.Module):
    """A folded network in plain layers, answering with values and greedy action."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.layers = network.layers

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        values = self.layers(obs.float())
        return values, values.argmax(1)


def _replay(name: str, play_file: Replayer, network: Callable[[Tensor], Tensor], obs: NDArray[Any], target: Target) -> dict[str, Any]:
    """Holds a file against the student on recorded observations.

    Raises:
        FileError: it does not answer as the student does.
    """
    with torch.no_grad():
        expected = network(torch.from_numpy(obs)).numpy()
    answers = play_file(obs)
    scale = float(np.abs(expected).max())
    worst = float(np.abs(answers.values - expected).max()) / max(scale, 1e-12)
    chosen = np.take_along_axis(expected, answers.actions[:, None], 1)[:, 0]
    same = float((answers.actions == expected.argmax(1)).mean())
    behind = float((expected.max(1) - chosen).max()) / max(scale, 1e-12)
    own = np.take_along_axis(answers.values, answers.actions[:, None], 1)[:, 0]
    consistent = bool((answers.values.max(1) - own <= TOLERANCE * scale).all())
    limit = INT8_AGREEMENT if target == "int8" else 0.0
    bad = not consistent or same < limit or (target != "int8" and (worst > TOLERANCE or behind > TOLERANCE))
    if bad:
        raise FileError(
            f"{name} does not answer as the student does (values differ by up to {worst:.1e} of the largest, {same:.1%} of the greedy "
            "actions are the same): it was not kept; please report this."
        )
    return {"observations": len(obs), "same_action": same, "largest_difference": worst}


def _few(obs: NDArray[Any]) -> NDArray[Any]:
    """Some of the observations, spread evenly."""
    return obs[:: max(len(obs) // GOLDEN, 1)][:GOLDEN]


def _golden(folder: Path, play_file: Replayer, obs: NDArray[Any], target: Target) -> None:
    """Observations and expected actions beside the file, and an example that loads it."""
    few = _few(obs)
    answers = play_file(few)
    archive = io.BytesIO()
    np.savez_compressed(archive, obs=few, values=answers.values, action=answers.actions)
    write_bytes(folder / "golden.npz", archive.getvalue())
    if target in ("c", "int8", "web"):
        rows = b"".join(int(a).to_bytes(4, "little") + np.ascontiguousarray(o).tobytes() for a, o in zip(answers.actions, few, strict=True))
        write_bytes(folder / "golden.bin", rows)
    if target not in ("c", "web"):
        write_bytes(folder / "example.py", EXAMPLES.get(target, EXAMPLES["onnx"]).encode())


EXAMPLES = {
    "onnx": '''"""pip install numpy onnxruntime; python example.py"""
import numpy as np
import onnxruntime

golden = np.load("golden.npz")
session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
values, action = session.run(["action_values", "action"], {"obs": golden["obs"]})
print(f"{(action == golden['action']).mean():.1%} of {len(action)} actions as expected")
''',
    "torch": '''"""pip install numpy torch; python example.py"""
import numpy as np
import torch

golden = np.load("golden.npz")
policy = torch.export.load("policy.pt2").module()
values, action = policy(torch.from_numpy(golden["obs"]))
print(f"{(action.numpy() == golden['action']).mean():.1%} of {len(action)} actions as expected")
''',
    "tflite": '''"""pip install numpy ai-edge-litert; python example.py"""
import numpy as np
from ai_edge_litert.interpreter import Interpreter

golden = np.load("golden.npz")
policy = Interpreter("policy.tflite").get_signature_runner()
actions = [min(policy(args_0=obs[None]).values(), key=np.size).item() for obs in golden["obs"]]
print(f"{(actions == golden['action']).mean():.1%} of {len(actions)} actions as expected")
''',
}


def verify(exported: str | Path, env_id: str | None = None, *, episodes: int = 100, tell: Tell | None = None) -> dict[str, Any]:
    """Plays an exported file itself, greedy, on the seeds of the verdict.

    A C file is compiled and run, and a torch.export file is loaded by PyTorch: verify only files that you exported.

    Args:
        exported: a folder that `export_policy` wrote, or one of its files.
        env_id: environment; the student's own by default.
        episodes: full episodes; as many as the teacher played where its returns are known.
        tell: called as the work goes on.

    Returns:
        ``return_mean``, ``return_ci95``, ``episodes``, ``verdict`` against the teacher's returns on the same seeds, and
        ``against_student``, the difference from the student's own; both None where the run has no teacher or the environment is another.
    """
    check_number("episodes", episodes, "[1, inf)")
    path = Path(exported)
    folder = path if path.is_dir() else path.parent
    if not (folder / "export.json").is_file():
        raise FileError(f"{exported} is no export: give a folder that distilrl export wrote, or a file in one.")
    card = read_json(folder / "export.json")
    if path.is_dir():
        path = folder / next(iter(card["files"]))
    shape, n_actions = tuple(card["obs_shape"]), int(card["n_actions"])
    policy = _actions(replayer(path, int(np.prod(shape)), n_actions), n_actions)
    reference = card.get("reference") if env_id in (None, card["env"]) else None
    how = Play(env_id or card["env"], epsilon=reference["epsilon"] if reference else 0.0)
    theirs = np.array(reference["teacher_returns"]) if reference else None
    count = len(theirs) if theirs is not None else episodes
    games = play(policy, how, seeds_from(VERDICT_SEEDS, count), tick=ticker(tell) if tell else None)
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"file": path.name, **stats.summarise(games.returns, rng, games.fingerprints)}
    result |= {"verdict": None, "against_student": None}
    if reference and theirs is not None:
        margin = max(float(reference["margin"]), 1e-9)
        pairs = games.fingerprints * np.uint64(31) + theirs.view(np.uint64)
        result["verdict"] = vars(stats.non_inferiority(games.returns, theirs, margin, rng, clusters=pairs))
        students = np.array(reference["student_returns"])
        lost = games.returns - students
        interval = stats.bootstrap_interval(lost, rng, clusters=games.fingerprints * np.uint64(31) + students.view(np.uint64))
        result["against_student"] = {"difference": stats.mean(lost), "difference_ci95": list(interval)}
    return result
