"""The pages of docs/fields: their commands, in order, with a tenth of the budget; and what `distilrl fields` lists.

A page's blocks of ```sh or ```console (lines after ``$ ``) are one session, from the repository's root. Commands of
`distilrl` are run with a tenth of what `TENTH` names, others (``python -m examples...``) too, so that a page states
their budget; ``pip install`` is not run, but names the extras without whose packages the page is skipped. All pages are
read by default, those of `QUICK` are run, and with ``-m slow`` the others too.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from distilrl import cli
from distilrl.envs import single

ROOT = Path(__file__).parents[1]
PAGES = [path for path in sorted((ROOT / "docs" / "fields").glob("*.md")) if not path.name.endswith(".zh-CN.md")]
QUICK = ("treatment",)
"""Pages that take seconds."""
TENTH = {
    "--steps", "--reward-steps", "--episodes", "--disturbed-episodes", "--accept-episodes", "--accept-max-episodes",
    "--iterations", "--states", "--timesteps", "--check-episodes",
}  # fmt: skip
"""Options that are divided by ten."""
LEAST = {"--steps": 2500, "--timesteps": 1000, "--states": 200}
"""What they are at least, more steps than any recipe begins to learn after; 2 where nothing is said."""
USUAL = {
    "distill": {"--steps": 30_000, "--episodes": 100, "--disturbed-episodes": 0},
    "tree": {"--iterations": 20, "--episodes": 100, "--disturbed-episodes": 0},
    "plan": {"--steps": 10_000, "--episodes": 100, "--seeds": 1},
    "train-teacher": {"--steps": 50_000, "--episodes": 100},
    "evaluate": {"--episodes": 100},
    "verify": {"--episodes": 100},
}
"""What is set beside them where a page leaves it to the command."""
ANY_TEACHER = ["--accept-weak-teacher", "--margin-abs", "1000"]
"""A teacher of a tenth of its training may be no better than chance."""


def commands(path):
    """Commands of a page, each as its words."""
    text = path.read_text(encoding="utf-8")
    found = []
    for kind, block in re.findall(r"^ *```(sh|console)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if kind == "console" and not line.startswith("$ "):
                continue  # what a command prints
            if words := shlex.split(line.removeprefix("$ "), comments=True):
                found.append(words)
    return found


def tenth(words):
    """The same command with a tenth of its budget."""
    words = list(words)
    for at, word in enumerate(words[:-1]):
        if word in TENTH:
            words[at + 1] = str(max(int(words[at + 1]) // 10, LEAST.get(word, 2)))
    if words[0] != "distilrl" or "--resume" in words or "--config" in words:
        return words
    for option, value in USUAL.get(words[1], {}).items():
        if option not in words:
            words += [option, str(max(value // 10, LEAST.get(option, 2)) if option in TENTH and value else value)]
    if words[1] in ("distill", "tree", "plan"):
        given = "--margin-abs" in words
        words += ANY_TEACHER[:1] if given else ANY_TEACHER
    return words


def absent(page):
    """Packages of a page's extras that are not installed."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = [extra for words in commands(page) for text in words for extra in re.findall(r"\[([\w,]+)\]$", text)]
    wanted, missing = {extra for extras in asked for extra in extras.split(",")}, []
    while wanted:
        for text in known[wanted.pop()]:
            one = Requirement(text)
            if one.name == "distilrl":
                wanted |= one.extras
            elif not any(True for _ in metadata.distributions(name=one.name)):
                missing.append(one.name)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_command_of_a_page_can_be_read(page):
    assert commands(page)
    for words in commands(page):
        assert words[0] in ("distilrl", "python", "pip"), words
        if words[0] == "distilrl":
            _, name, *options = tenth(words)
            cli.parse(name, options)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_both_languages_have_the_same_commands(page):
    other = page.with_name(f"{page.stem}.zh-CN.md")
    assert other.is_file()
    assert commands(other) == commands(page)


@pytest.mark.parametrize(
    "page",
    [pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in PAGES],
)
def test_the_commands_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    if missing := absent(page):
        pytest.skip(f"not installed: {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    for name in ("examples", "zoo", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    for words in map(tenth, commands(page)):
        monkeypatch.setattr(single, "_trusted", set())  # as in a shell, each command begins anew
        if words[0] == "distilrl":
            assert cli.main(words[1:]) in (0, 1, 3), words
        elif words[0] == "python":
            path = os.pathsep.join((str(ROOT), *sys.path))
            done = subprocess.run([sys.executable, *words[1:]], env={**os.environ, "PYTHONPATH": path}, check=False)
            assert done.returncode == 0, words


def test_fields_are_listed(capsys):
    assert cli.main(["fields", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert cli.main(["fields"]) == 0
    shown = capsys.readouterr().out
    for row in rows:
        assert (ROOT / row["page"]).is_file()
        assert row["field"] in shown
        assert f"{row['params']:,}" in shown  # names may be broken over lines


def told(name: str) -> list[str]:
    """The figures of `benchmarks/facts.py` as a page has them."""
    found = json.loads((ROOT / "benchmarks/results/fields/facts" / f"{name}.json").read_text(encoding="utf-8"))
    if name == "treatment":
        usual, fatal = found["survive"]["mean"], found["survive"]["terminate"]
        return [
            f"{100 * found['untried']:.0f} %",
            *(f"**{usual[one]:.4f}**" for one in usual),
            *(f"{fatal[one]:.4f}" for one in fatal),
        ]
    if name == "diagnosis":
        shares = [found["right"][one] for one in ("frame", "file size", "nearest neighbour")]
        counts = ("near_duplicates", "clusters", "held_out", "held_out_clusters", "file_size_misleads")
        chance = f"{100 * found['neighbour_split_by_chance']:.0f} %"
        return [chance, *(f"{found[one]:,}" for one in counts), *(f"{100 * share:.1f} %" for share in shares)]
    rows = {row["policy"]: row for row in found["rows"]}
    if name == "monitoring":
        return [f"{row['measures']['error']:.2f}" for row in rows.values()]
    if name == "greenhouse":
        shown = ("ppo.zip", "mlp:16, seed 0", "mlp:16, seed 1", "mlp:16, seed 2", "grower")
        return [f"{rows[one]['return_mean']:.2f}".replace("-", "−") for one in shown]
    low, high = (f"{end:.1f}".replace("-", "−") for end in rows["random, equal turnover and position"]["return_ci95"])
    whole = (f"{rows[one]['return_mean']:.0f} %" for one in ("buy and hold", "half in, half out", "trend of 200 days"))
    own = rows["zoo/trading-dqn"]
    return [
        *whole,
        f"{rows['random, equal turnover and position']['return_mean']:.1f} % [{low}, {high}]",
        f"{own['return_mean']:.1f} % [{own['return_ci95'][0]:.1f}, {own['return_ci95'][1]:.1f}]",
    ]


@pytest.mark.parametrize(
    ("name", "page"),
    {
        "treatment": "treatment",
        "diagnosis": "diagnosis",
        "monitoring": "environment",
        "greenhouse": "environment",
        "trading": "trading",
    }.items(),
)
@pytest.mark.parametrize("language", ["", ".zh-CN"])
def test_figures_beside_the_tables_are_those_that_were_computed(name, page, language):
    text = (ROOT / "docs" / "fields" / f"{page}{language}.md").read_text(encoding="utf-8")
    assert [figure for figure in told(name) if figure not in text] == []
