"""Commands that use what there is: look at a file, play it, ship it, report on it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from distilrl.checkpoints import write_bytes
from distilrl.cli.display import Display, console, print_facts, print_fields, print_verdict
from distilrl.cli.options import EnvOptions, FileOptions, TrustOptions, Unset, code_of
from distilrl.errors import SpecError
from distilrl.export import Target, export_policy, verify
from distilrl.inspection import inspect, inspect_play
from distilrl.plain import THREADS, check_number, read_as
from distilrl.played import Returns, Verified
from distilrl.report import animation, write_report
from distilrl.runs import RunFolder
from distilrl.teachers import load_teacher
from distilrl.teaching import evaluate_against, evaluate_policy
from distilrl.threads import use_threads


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Print what a teacher's file is, without executing anything in it; with --env, how it plays."""

    policy: Annotated[Positional[str], arg(metavar="POLICY")]
    """Any teacher file or folder, a run folder, or hf://owner/repository."""
    env: Unset[str | None] = None
    """Environment: adds the acceptance check, the score with random and with sticky actions, and warnings."""
    episodes: int = 20
    """Episodes of the check."""
    threads: int = 2
    """CPU threads."""
    json: bool = False
    """Print one JSON object on standard output, and everything else on standard error."""
    teacher_file: Annotated[FileOptions, arg(name="")] = field(default_factory=FileOptions)
    around: Annotated[EnvOptions, arg(name="")] = field(default_factory=EnvOptions)

    def run(self) -> None:
        """Inspects."""
        check_number("episodes", self.episodes, "[2, inf)")
        check_number("threads", self.threads, THREADS)
        use_threads(self.threads)
        env = self.around.maybe(self.env)
        teacher = load_teacher(self.teacher_file.file(self.policy))
        facts, play = inspect(teacher), None
        if env is not None:
            with Display() as watch:
                play = inspect_play(teacher, env, episodes=self.episodes, threads=self.threads, watch=watch)
        if self.json:
            print(json.dumps(facts | ({"play": play.to_json()} if play is not None else {})))
        else:
            print_facts(facts, play)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Play greedy full episodes and print the return with its interval; with --against, a verdict."""

    policy: Annotated[Positional[str], arg(metavar="POLICY")]
    """Any teacher file or folder, or a run folder."""
    env: str
    """Environment."""
    against: Unset[str | None] = None
    """Another file or folder: it plays the same episodes, and the verdict says whether the policy keeps its return."""
    margin: float = 0.05
    """With --against: largest acceptable loss, as a share of (the other's return - random)."""
    margin_abs: Unset[float | None] = None
    """With --against: the same in the environment's own units, in place of the share."""
    episodes: int = 100
    """Full episodes; a game that repeats itself is played once from each start instead."""
    epsilon: float = 0.0
    """Probability of a random action."""
    sticky: Unset[float | None] = None
    """ALE's probability of repeating the last action; the environment's own by default."""
    threads: int = 2
    """CPU threads."""
    json: bool = False
    """Print one JSON object on standard output, and everything else on standard error."""
    teacher_file: Annotated[FileOptions, arg(name="")] = field(default_factory=FileOptions)
    around: Annotated[EnvOptions, arg(name="")] = field(default_factory=EnvOptions)

    def run(self) -> int:
        """Evaluates; the code says what a verdict is."""
        check_number("threads", self.threads, THREADS)
        if self.margin_abs is not None and self.against is None:
            raise SpecError("--margin-abs is of a verdict: give --against too.")
        use_threads(self.threads)
        policy = load_teacher(self.teacher_file.file(self.policy))
        how: dict[str, Any] = {
            "episodes": self.episodes,
            "epsilon": self.epsilon,
            "sticky": self.sticky,
            "threads": self.threads,
        }
        if self.against is None:
            with Display() as watch:
                alone = evaluate_policy(policy, self.around.ref(self.env), **how, watch=watch)
            print(json.dumps(alone.to_json()) if self.json else _returned(alone, alone.params))
            return 0
        with Display() as watch:
            duel = evaluate_against(
                policy,
                load_teacher(self.against),
                self.around.ref(self.env),
                **how,
                margin=self.margin,
                margin_abs=self.margin_abs,
                watch=watch,
            )
        if self.json:
            print(json.dumps(duel.to_json()))
        else:
            print(f"{self.policy}: {_returned(duel.policy, duel.policy.params)}")
            print(f"{self.against}: {_returned(duel.against, duel.against.params)}")
            print_verdict(duel.verdict, "policy - against")
        return code_of(duel.verdict.result)


def _returned(result: Returns, params: int | None) -> str:
    """A return with its interval, in words."""
    size = f", {params:,} parameters" if params else ""
    return f"return {result.in_words()} over {result.episodes} episodes ({result.distinct_episodes} distinct){size}"


def _played(result: Verified) -> str:
    """What `verify` found, in words."""
    words = f"{result.file}: return {result.in_words()} over {result.episodes} episodes"
    lost = result.against_student
    if lost is None:
        return words
    low, high = lost.difference_ci95
    ends = "" if result.exact else f"[{low:+.2f}, {high:+.2f}] "
    return f"{words}, {lost.difference:+z.2f} {ends}against the student itself"


@dataclass(frozen=True)
class Export(TrustOptions):
    """Write a run's student as a file for its target, replayed against the student before it is kept."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    to: Target
    """onnx; c: C99 floats; int8: integer C and ONNX, with the verdict run again; torch: torch.export; tflite: LiteRT;
    web: a page with the C in WebAssembly."""
    out: Unset[Path | None] = None
    """Folder to write; RUN/export/TARGET by default."""

    def run(self) -> int:
        """Exports; the code says what the verdict of a quantised student is."""
        self.allow()
        use_threads(1)  # one small network at a time: more threads would only wait for each other
        with Display() as watch:
            card = export_policy(self.run_folder, self.to, self.out, watch=watch)
        for name, facts in card["replay"].items():
            console.print(
                f"{name}: {card['files'][name]:,} bytes, {facts['same_action']:.2%} of {facts['observations']:,} "
                "greedy actions as the "
                f"student's, values within {facts['largest_difference']:.1e}"
            )
        if "weight_bytes" in card:
            console.print(f"C: {card['weight_bytes']:,} bytes of weights, {card['scratch_bytes']:,} bytes of scratch")
        if card.get("fine_tuned"):
            console.print(
                "fine-tuned against the teacher with everything rounded: the calibrated integers had lost return"
            )
        results = []
        for one in card.get("played", {}).values():
            played = read_as(Verified, one)
            if played.verdict is not None:
                console.print(_played(played))
                print_verdict(played.verdict, "file - teacher")
                results.append(played.verdict.result)
        print(card["path"])
        return code_of(*results)


@dataclass(frozen=True)
class Verify(TrustOptions):
    """Play an exported file itself and give its own verdict."""

    exported: Positional[Path]
    """Folder that export wrote, or one of its files."""
    env: Unset[str | None] = None
    """Environment; the student's own by default."""
    episodes: int = 100
    """Full episodes; as many as the teacher played where its returns are known."""
    json: bool = False
    """Print one JSON object on standard output, and everything else on standard error."""
    around: Annotated[EnvOptions, arg(name="")] = field(default_factory=EnvOptions)

    def run(self) -> int:
        """Verifies; the code says what the file's verdict is."""
        use_threads(1)
        self.allow()
        env = self.around.maybe(self.env)
        with Display() as watch:
            result = verify(self.exported, env, episodes=self.episodes, watch=watch)
        if self.json:
            print(json.dumps(result.to_json()))
        else:
            print(_played(result))
            if result.verdict is not None:
                print_verdict(result.verdict, "file - teacher")
            else:
                console.print("no verdict: the export holds no returns of its teacher in this environment")
        return code_of(result.verdict.result) if result.verdict is not None else 0


@dataclass(frozen=True)
class Report(TrustOptions):
    """Write report.html of a finished run."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""

    def run(self) -> None:
        """Writes it."""
        self.allow()
        with console.status("writing the report"):
            print(write_report(self.run_folder))


@dataclass(frozen=True)
class Fields:
    """List what was distilled in six fields of use: environment, teacher, smallest student, and their pages."""

    json: bool = False
    """Print a JSON array on standard output."""

    def run(self) -> None:
        """Lists."""
        rows = json.loads(Path(__file__).with_name("fields.json").read_text(encoding="utf-8"))
        if self.json:
            print(json.dumps(rows))
        else:
            print_fields(rows)


@dataclass(frozen=True)
class Watch(TrustOptions):
    """Write an animated image of teacher and student side by side."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    steps: int = 1500
    """Environment steps at most."""

    def run(self) -> None:
        """Writes it."""
        self.allow()
        check_number("steps", self.steps, "[1, inf)")
        folder = RunFolder(self.run_folder)
        if not folder.tree.is_file() and not (folder.student / "spec.json").is_file():
            raise folder.lacking("student")
        path = folder.path / "watch.webp"
        with console.status("playing"):
            write_bytes(path, animation(folder, steps=self.steps))
        print(path)
