"""A tiny replay of what `make chaos` does for hours: each of its scripts, once."""

import json
import random
import re
import sys
import time
from pathlib import Path

import pytest

CHAOS = Path(__file__).parent / "chaos"
sys.path.insert(0, str(CHAOS))
pytest.importorskip("onnx", reason="the fuzzer makes ONNX graphs: pip install 'distilrl[onnx]'")
import disk  # noqa: E402
import faults  # noqa: E402
import fuzz  # noqa: E402
import kill  # noqa: E402
import soak  # noqa: E402
import starts  # noqa: E402
import users  # noqa: E402
import workload  # noqa: E402

import distilrl.report  # noqa: E402  # now, so that no fork has to

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked here")


@pytest.fixture(autouse=True, scope="module")
def hardly_learning():
    """Runs of `make chaos` learn more, and take longer; and the page of reports is read once, not in every fork."""
    distilrl.report._template()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "SHORT", [*workload.SHORT, "--set", "updates=1"])
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with teachers."""
    path = tmp_path_factory.mktemp("chaos")
    workload.make_teachers(path)
    return path


@pytest.fixture(scope="module")
def whole(home):
    """What a run leaves to which nothing happens, and how it ended."""
    return kill.baselines(home, ["vectors"])["vectors"]


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return fuzz.targets(tmp_path_factory.mktemp("fuzz"))


def test_the_corpus_is_refused(targets, tmp_path):
    came = fuzz.replay(targets, tmp_path)
    assert len(came) > 15
    assert [one for one in came if one[1] != "refused"] == []


def test_sound_files_are_read(targets, tmp_path):
    for name, target in targets.items():
        assert fuzz.attack(target, target.sound, tmp_path) == "read", name


def test_some_hostile_files_are_refused_or_read(targets, tmp_path):
    for number in range(25 * len(targets)):
        name, data = fuzz.made(targets, 7, number)
        assert fuzz.attack(targets[name], data, tmp_path) in ("read", "refused"), (name, number)


class Found(Exception):
    """A finding, which ends the attacks."""


@pytest.fixture
def found(monkeypatch):
    """What is found by attacks on one reader, which is called with the file of each."""

    def attacks(read):
        monkeypatch.setattr(fuzz, "targets", lambda _home: {"one": fuzz.Target("x", b"x", lambda d, _rng: d, read)})
        monkeypatch.setattr(fuzz, "SECONDS", 0.2)
        with pytest.raises(Found) as caught:
            fuzz.fuzz(0, 600.0)
        return str(caught.value)

    def kept(_home, _number, name, data, came):
        assert (name, data) == ("one", b"x")
        raise Found(came)

    monkeypatch.setattr(fuzz, "_kept", kept)
    return attacks


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux says what a process waits for")
def test_a_reader_that_takes_too_long_is_found_whether_it_computes_sleeps_or_answers_late(found, monkeypatch):
    def computes(_path):
        while True:
            pass

    assert found(computes) == "hangs"
    assert found(lambda _path: time.sleep(600)) == "hangs"
    monkeypatch.setattr(fuzz, "answers", lambda pipe, _pid, _seconds: pipe.poll(600))  # nobody watches meanwhile
    assert re.fullmatch(r"took 0\.\d s, then: read", found(lambda _path: time.sleep(0.3)))


def test_what_a_process_waits_for_a_processor_is_not_counted(monkeypatch):
    """It waits for long, and computes a second each time that somebody looks."""

    class Pipe:
        looks = 0

        def poll(self, _seconds):
            self.looks += 1
            return self.looks == 9

    clock = {"now": 100.0, "waited": 0}

    def schedstat(_path):
        clock["now"] += 31.0
        clock["waited"] += 30_000_000_000
        return f"0 {clock['waited']} 1"

    monkeypatch.setattr(fuzz.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(fuzz.Path, "read_text", schedstat)
    assert fuzz.answers(Pipe(), 1, 10.0)
    assert not fuzz.answers(Pipe(), 1, 5.0)


def test_a_killed_run_ends_with_the_same_bytes(home, whole):
    rng = random.Random(0)
    assert kill.once(home, "vectors", whole[0], 0.8 * whole[1].seconds, rng)["same"]
    assert kill.files(home, "report", rng)["same"]


def test_of_two_starts_one_goes_on(home):
    words = [*workload.commands(home)["vectors"], "--out", str(home / "two")]
    assert starts.one_goes_on(starts.together([words, words], lag=0.0))


@pytest.mark.parametrize("kind", disk.KINDS)
def test_a_write_that_fails_is_one_sentence_and_the_run_goes_on(home, whole, kind):
    words, out = workload.commands(home)["vectors"], home / f"disk-{kind}"
    failed = workload.run([*words, "--out", str(out)], prepare=disk.Writes(17, kind).install)
    assert disk.mended(failed, words, out, whole[0])["good"]


def test_faults_in_the_middle_are_named_and_the_run_goes_on(home):
    assert faults.environment(home, "raise", 0)["good"]
    assert faults.teacher(home, 100)["good"]


def test_a_user_who_comes_with_anything(tmp_path):
    row = users.once(tmp_path / "user", 44)  # an ONNX teacher, a student with a history and a cell
    assert row["code"] in (0, 1, 3)
    assert row["wrong"] == []


def test_a_user_whose_things_do_not_go_together_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(users, "come", lambda home, _world: ["distill", "--teacher", str(home), "--env", users.WORLD])
    row = users.once(tmp_path / "user", 0)
    assert (row["code"], row["wrong"]) == (2, [])
    assert row["said"].startswith("error: ")


def test_a_soak_of_seconds_adds_its_line(home, tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "RESULTS", tmp_path / "results")
    words = ["--env", workload.SIGN, "--teacher", str(home / "sign"), "--hours", "0.0005", "--settle", "0.02"]
    monkeypatch.setattr(sys, "argv", ["soak.py", *words, "--steps", "880", "--seed", "5"])
    for count in (1, 2):
        ended = workload.run(lambda: soak.main() or 0)
        assert ended.code in (0, 1), ended.said
        lines = (tmp_path / "results" / "soak.jsonl").read_text().splitlines()
        assert len(lines) == count
    row = json.loads(lines[-1])
    assert (row["seed"], row["steps"], row["more"]["descriptors"]) == (5, 880 * row["runs"], 0)
    assert row["date"][:2] == "20"
    assert row["rss_kib"] > 0
    assert row["more"]["temporary"] == 0
