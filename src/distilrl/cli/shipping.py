"""Commands that ship a student: write it as a file, and play that file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from distilrl.cli.options import Around, EnvOptions, Trusted, TrustOptions, Unset, code_of, told_apart
from distilrl.cli.tables import print_measures, print_verdict
from distilrl.display import Display, console
from distilrl.export import Target, export_policy, verify
from distilrl.plain import read_as
from distilrl.results import Verified
from distilrl.runs import RunFolder
from distilrl.threads import use_threads
from distilrl.verdict import digits_of


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's student as a file for its target.

    It is replayed against the student before it is kept.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder."""
    to: Target
    """onnx; c: C99 floats; int8: integer C and ONNX, with the verdict run again; torch: torch.export; tflite: LiteRT;
    web: a page with the C in WebAssembly."""
    out: Unset[Path | None] = None
    """Folder to write; RUN/export/TARGET by default, of a plan RUN/winner/export/TARGET."""
    env: Unset[str | None] = None
    """Environment whose observations the file is checked on and comes with; the student's own by default."""
    around: Around = field(default_factory=EnvOptions)
    trusted: Trusted = field(default_factory=TrustOptions)

    def run(self) -> int:
        """Exports; the code says what the verdict of a quantised student is."""
        self.trusted.allow()
        use_threads(1)  # one small network at a time: more threads would only wait for each other
        with Display() as watch:
            card = export_policy(self.run_folder, self.to, self.out, env=self.around.maybe(self.env), watch=watch)
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
        if "reference" not in card and not RunFolder(self.run_folder).results.is_file():
            console.print("the run has not ended: its student is that of the last check, and has no verdict")
        results = []
        for one in card.get("played", {}).values():
            played = read_as(Verified, one)
            if played.verdict is not None:
                console.print(_played(played))
                print_verdict(played.verdict, "file - teacher")
                print_measures(played.measures, ("teacher", "file"))
                results.append(played.worst)
        print(card["path"])
        return code_of(*results)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Play an exported file itself and give its own verdict.

    C is compiled and run, so only of files that you trust.
    """

    exported: Positional[Path]
    """Folder that export wrote, or one of its files."""
    env: Unset[str | None] = None
    """Environment; that of the student's verdict by default."""
    episodes: int = 100
    """Full episodes; as many as the teacher played where its returns are known."""
    json: bool = False
    """Print one JSON object on standard output, and everything else on standard error."""
    around: Around = field(default_factory=EnvOptions)
    trusted: Trusted = field(default_factory=TrustOptions)

    def run(self) -> int:
        """Verifies; the code says what the file's verdict is, that of an inconclusive one where there is none."""
        use_threads(1)
        self.trusted.allow()
        env = self.around.maybe(self.env)
        with told_apart(self.json), Display() as watch:
            result = verify(self.exported, env, episodes=self.episodes, watch=watch)
        if self.json:
            print(json.dumps(result.to_json()))
        else:
            print(_played(result))
            if result.verdict is not None:
                print_verdict(result.verdict, "file - teacher")
                print_measures(result.measures, ("teacher", "file"))
                if "episodes" in getattr(self, "said", ()) and self.episodes != result.episodes:
                    console.print(f"--episodes {self.episodes}: played as often as the teacher, for the verdict")
            else:
                console.print("no verdict: the export holds no returns of its teacher in this environment")
        return code_of(result.worst or "inconclusive")  # no verdict proves nothing


def _played(result: Verified) -> str:
    """What `verify` found, in words."""
    words = f"{result.file}: return {result.in_words()} over {result.episodes} episodes"
    lost = result.against_student
    if lost is None:
        return words
    low, high = lost.difference_ci95
    number = f"{{:+z,.{digits_of((high - low) / 2 or abs(lost.difference) / 10 or 1.0)}f}}".format
    ends = "" if result.exact else f"[{number(low)}, {number(high)}] "
    return f"{words}, {number(lost.difference)} {ends}against the student itself"
