"""Export: a student as a file for its target, held against the student before it is kept, and checked again at will."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilrl import stats
from distilrl.checkpoints import Stored, load_network
from distilrl.config import train_config
from distilrl.display import watching
from distilrl.envs import EnvInfo, find_spec, is_plain_cartpole
from distilrl.episodes import Play
from distilrl.errors import DistilError, FileError, SpecError
from distilrl.evaluate import INTEGER_SEEDS, load_teachers, play, seeds_from
from distilrl.events import Phase, Watch
from distilrl.export import c, int8, int8_c, onnx, qat, tflite, torch_export, web
from distilrl.export.card import PAGE, card_of, comment_of, found_of, recorded, reference
from distilrl.export.keep import GOLDEN, check_place, keep_export, own_place, write_c
from distilrl.export.last import last_step
from distilrl.export.replay import Recording, file_policy, open_export
from distilrl.export.steps import steps, without_offset
from distilrl.export.tree import export_tree
from distilrl.export.verifying import env_of, verify
from distilrl.files import read_json_as, write_bytes, write_text
from distilrl.isolation import isolated
from distilrl.networks import Network
from distilrl.objective import TDTerm, taught_at
from distilrl.played import TeacherCard
from distilrl.policies import Policy
from distilrl.runs import RunFolder
from distilrl.sensors import EXACT
from distilrl.spaces import EnvLike, EnvRef, Excerpt, ObsSpec, env_ref
from distilrl.specs import NetworkSpec
from distilrl.targets import TARGETS, Target, check_target
from distilrl.teachers.hub import offline

__all__ = ["TARGETS", "Target", "export_policy", "verify"]

SELECTED_ON, JUDGED_ON = seeds_from(INTEGER_SEEDS, 16), seeds_from(INTEGER_SEEDS + 16, 50)
"""Seeds of the episodes that choose where an integer file's activations are cut off, and whether it is fine-tuned."""
TOLERATED = 0.01
"""Share of (teacher − random) that integers may return less than their floats before they are fine-tuned."""
TUNED_ON = 4
"""Plays of the student whose states fine-tuning learns from."""


@isolated()
def export_policy(
    run: str | Path,
    target: Target,
    out: str | Path | None = None,
    *,
    env: EnvLike | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Writes a run's student for a target; the folder is complete only if the file answers as the student does.

    Args:
        run: run folder.
        target: ``onnx``, ``c`` (C99 floats), ``int8`` (integer C and ONNX QDQ; the verdict is run again), ``torch``
            (torch.export), ``tflite`` (LiteRT) or ``web`` (a page with the C in WebAssembly).
        out: folder to write; ``RUN/export/TARGET`` by default, of a plan that in its winner's folder.
        env: environment; the student's own by default, to be named where it was made by a function.
        watch: told as the work goes on; None: as `distill` shows it.

    Returns:
        The contents of ``export.json``.

    Raises:
        FileError: the run holds no student, the folder cannot be written, or the file does not answer as the student.
        SpecError: the target cannot hold such a student.
        ExtraError: a package that the target needs is missing.

    Example::

        card = export_policy("runs/cheetah", "c")
        card["replay"]["policy.c"]["largest_difference"]
    """
    folder = RunFolder(run).with_student()
    if target not in TARGETS:
        raise SpecError(f"Unknown target '{target}': use one of {', '.join(TARGETS)}.")
    out = Path(out) if out is not None else own_place(folder, target)
    check_place(out)
    named = env_ref(env) if env is not None else None
    if folder.tree.is_file():
        if target != "c":
            raise SpecError(f"{folder.path} holds a tree, which is written as C: export it to c.")
        with watching(watch) as watch:
            return export_tree(folder, out, named, watch)
    student = _Student.of(folder, named)
    # what cannot be written is refused before it is played
    check_target(student.stored.network.spec, target)
    if target in ("c", "int8", "web"):
        last_step(student.stored.head).check_c()
    with watching(watch) as watch:
        watch(Phase("recording"))
        seen = recorded(student.policy, student.info.ref, watch, sensors=student.sensors)
        watch(Phase("writing"))
        work = _Export(student, target, out, seen, watch)
        return work.keep_integers() if target == "int8" else work.keep()


def _read_by(spec: NetworkSpec, obs: ObsSpec) -> Excerpt | None:
    """What a network's file is given of an observation; None: all of it, and so where it reads an image and some of the
    vector beside it.
    """
    if not spec.unseen or (spec.image is not None and spec.seen):
        return None
    places = spec.seen or tuple(range(obs.vector, obs.shape[0]))
    return Excerpt(places, obs.part(places))


class _Student:
    """A run's student and what is known of it."""

    def __init__(self, folder: RunFolder, stored: Stored, info: EnvInfo, *, named: bool) -> None:
        """``named``: the environment is not the student's own but one that was asked for."""
        self.folder, self.stored, self.info, self.named = folder, stored, info, named
        self.policy = Policy(stored.network, stored.head)
        spec = stored.network.spec
        self.reads = _read_by(spec, info.obs)
        """What the file reads of an observation; None: all."""
        self.obs = self.reads.spec if self.reads is not None else info.obs
        self.found = found_of(folder, stored.digest, folder.student)
        """What its run found of it; None where it is not finished."""
        self.results = self.found[0] if self.found is not None else None
        self.config = train_config(folder) if self.found is not None or folder.kind() is not None else None
        """How it was trained; None where the folder is of no run."""
        self.sensors = self.config.student.sensors if self.config is not None else EXACT
        """How it sees."""

    @classmethod
    def of(cls, folder: RunFolder, env: EnvRef | None) -> "_Student":
        """The student in a run folder.

        Raises:
            FileError: there is none, or it does not say in which environment it plays.
        """
        if not (folder.student / "spec.json").is_file():
            raise folder.lacking("student")
        stored = load_network(folder.student)
        stored.network.eval()
        info = env_of(stored.meta, stored.network.spec.obs_shape, stored.head, folder.student, env)
        return cls(folder, stored, info, named=env is not None)

    def bare(self, network: Network) -> Network:
        """The network of what the file reads."""
        return network.bare() if network.spec.unseen and self.reads is not None else network

    def card(self, target: Target) -> dict[str, Any]:
        """What export.json says; with a finished run, also what teacher and student did on the verdict's seeds."""
        spec, stored = self.stored.network.spec, self.stored
        card = card_of(
            target, self.info, stored.head, spec.describe(), spec.params, stored.digest,
            sensors=self.sensors, reads=self.reads,
        )  # fmt: skip
        return card if self.found is None else card | reference(*self.found)


class _Export:
    """A student on its way into a folder."""

    def __init__(self, student: _Student, target: Target, out: Path, seen: Recording, watch: Watch) -> None:
        self.student, self.target, self.out, self.seen, self.watch = student, target, out, seen, watch
        if student.reads is not None:
            self.seen = Recording(student.reads.of(seen.obs), seen.begins)
        self.head, self.info = student.stored.head, student.info

    def keep(self, rounded: "_Rounded | None" = None, **more: Any) -> dict[str, Any]:
        """Writes, replays and keeps the student, or its integers."""
        own = self.student.stored.network
        network = self.student.bare(own if rounded is None else rounded.network)
        card = self.student.card(self.target) | more
        policy = Policy(network if rounded is None else self._in_integers(rounded.network), self.head)
        tuned = rounded is not None and rounded.network is not own
        beside = Policy(self._in_integers(own), self.head) if tuned else None

        def write(part: Path) -> list[str]:
            return self._write(part, network, card, rounded.integers if rounded is not None else None)

        env = self.info.ref if self.student.named else None  # the verdict is run again where it was
        return keep_export(self.out, policy, self.seen, card, write, self.watch, env=env, beside=beside)

    def _write(
        self, folder: Path, network: Network, card: dict[str, Any], integers: int8.Quantised | None
    ) -> list[str]:
        """Writes the policy's files; returns those that can be played."""
        head, obs = self.head, self.student.obs
        comment = comment_of(card, self.info)
        about = {k: card[k] for k in ("env", "network", "student_sha256", "head")}
        if self.target != "int8":  # whose own verdict is taken when its file is there
            about |= {"student_verdict": card.get("student_verdict", "none")}
        match self.target:
            case "int8" if integers is not None:
                source = int8_c.write(integers, head, obs, comment)
                write_bytes(folder / "policy.onnx", onnx.write_int8(integers, head, obs, about))
                files = ["policy.c", "policy.onnx"]
            case "onnx":
                write_bytes(folder / "policy.onnx", onnx.write(network, head, obs, about))
                return ["policy.onnx"]
            case "torch":
                write_bytes(folder / "policy.pt2", torch_export.write(network, head, self.seen.obs))
                return ["policy.pt2"]
            case "tflite":
                write_bytes(
                    folder / "policy.tflite", tflite.write(torch_export.Plain(network, head), self.seen.obs[:1])
                )
                return ["policy.tflite"]
            case _:
                source = c.write(steps(network, "c"), head, obs, comment)
                files = ["policy.c"]
        card |= {"scratch_bytes": source.scratch_bytes, "weight_bytes": source.weight_bytes}
        write_c(folder, source)
        if self.target == "web":
            write_text(folder / PAGE, self._page(network, source, folder / files[0], card))
        return files

    def _page(self, network: Network, source: c.Source, written: Path, card: dict[str, Any]) -> str:
        """The page, which expects of WebAssembly what the same C gives here: between values as good as equal another
        order of summation may choose otherwise.
        """
        golden, last = self.seen.few(GOLDEN, remembers=network.spec.remembers), last_step(self.head)
        module = web.wasm(source, last, remembers=network.spec.remembers)
        answers = open_export(written, self.head, golden.obs[0].size)(golden.obs, golden.begins)
        env, name = card["env"], card["network"]
        reads = self.student.reads.places if self.student.reads is not None else None
        remembers = network.spec.remembers
        obs, ref, named = self.student.obs, self.info.ref, self.info.protocol.get("actions", ())
        image = web.about_image(obs, self.head, named, remembers=remembers, grey=ref.grey)
        plays = is_plain_cartpole(ref, find_spec(ref)) and self.student.sensors.exact  # which the page has none of
        limit = int(self.info.protocol["max_episode_steps"]) if plays else 0
        return web.page(
            module,
            env,
            name,
            last,
            golden.obs,
            answers,
            remembers=remembers,
            reads=reads,
            image=image,
            cartpole=limit,
            frames=obs.frames,
            note=self.info.protocol.get("note", ""),
        )

    def keep_integers(self) -> dict[str, Any]:
        """Keeps the student in integers; fine-tuned with everything rounded, where it loses return by being rounded and
        returns more so.

        All that is chosen is chosen on seeds of its own, so that the verdict is taken once, of what ships.
        """
        network = self.student.stored.network
        plain = self._rounded(network)
        if self.student.results is None:  # of a run that has not ended nothing is known that could be lost
            return self.keep(plain)
        floats, kept = self._mean_return(self.student.policy), self._mean_return(self._policy_of(plain.integers))
        here = read_json_as(TeacherCard, self.student.folder.teacher).acceptance  # a verdict may be of elsewhere
        span = here.return_mean - here.random_return_mean
        if floats - kept <= TOLERATED * abs(span) or (tuned := self._fine_tuned()) is None:
            return self.keep(plain)
        again = self._rounded(tuned)
        if self._mean_return(self._policy_of(again.integers)) <= kept:
            return self.keep(plain)
        try:
            return self.keep(again, fine_tuned=True)
        except FileError:  # what was tuned is no better at being rounded
            return self.keep(plain)

    def _in_integers(self, network: Network) -> Network:
        """What integers stand for, and are held against: they give choices as differences from their mean."""
        return without_offset(self.student.bare(network), self.head)

    def _rounded(self, network: Network) -> "_Rounded":
        """A network in integers, its activations cut off where it plays best."""
        layers, seen = steps(self._in_integers(network), "int8"), self.seen
        candidates = [
            int8.quantise(
                layers,
                seen.obs,
                seen.begins,
                percentile=share,
                moves_percentile=moves,
                image_bytes=self.student.obs.image_bytes,
            )
            for moves in (int8.MOVES_PERCENTILES if network.spec.history > 1 else (100.0,))
            for share in int8.PERCENTILES
        ]
        best = max(candidates, key=lambda one: self._mean_return(self._policy_of(one), SELECTED_ON))
        return _Rounded(network, best)

    def _mean_return(self, policy: Policy, seeds: Sequence[int] = JUDGED_ON) -> float:
        """On seeds on which nothing else is chosen or judged."""
        config = self.student.config
        epsilon = config.eval_epsilon if config is not None else 0.0
        how = Play(self.info.ref, epsilon=epsilon, max_steps=20_000, sensors=self.student.sensors)
        return stats.mean(play(policy, how, seeds, watch=self.watch).returns)

    def _policy_of(self, integers: int8.Quantised) -> Policy:
        """Integers as they are compiled."""
        with tempfile.TemporaryDirectory() as scratch:
            write_c(Path(scratch), int8_c.write(integers, self.head, self.student.obs, "candidate"))
            file = open_export(Path(scratch) / "policy.c", self.head, self.seen.obs[0].size)
        return file_policy(file, self.head, self.student.reads)

    def _fine_tuned(self) -> Network | None:
        """The student fine-tuned with everything rounded; None where that is not possible."""
        student, config = self.student, self.student.config
        if config is None or student.results is None or student.policy.remembers:  # it is tuned on single states
            return None
        # rewards taught it, not the teacher; or what it sees is not what the teacher is asked about
        rewarded = config.reward.env_steps > 0 or any(isinstance(term, TDTerm) for term in config.terms)
        if rewarded or not student.sensors.exact:
            return None
        try:
            with offline():  # the run named it, not who exports
                teacher = load_teachers(config.tasks[0].teacher, self.info.ref, config.combine)
        except DistilError:  # its file is elsewhere by now: the integers stay as calibrated
            return None
        if teacher.policy.remembers:  # it cannot be asked about states out of their order
            return None
        plays = [recorded(student.policy, self.info.ref, self.watch, number) for number in range(1, TUNED_ON + 1)]
        return qat.fine_tune(
            self.student.bare(student.stored.network),
            teacher,
            np.concatenate([play.obs for play in plays]),
            taught_at(config.terms, student.results.temperature or 1.0, self.head),
            reads=student.reads,
            image_bytes=student.obs.image_bytes,
            scaled_head=config.keeps_scale or config.learns_scale,
        )


@dataclass(frozen=True)
class _Rounded:
    """A network, and the integers that it becomes."""

    network: Network
    integers: int8.Quantised
