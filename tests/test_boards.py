"""Exported C where it ships: compiled for microcontrollers without a warning, run on emulated ones, the same bits."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_export import needs_cc

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import boards

STRICT = [
    "-std=c99",
    "-pedantic",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wdouble-promotion",
    "-Wshadow",
    "-Werror",
    "-O2",
]
COMPILERS = {
    "cc": ["cc"],
    "cc with AVX": ["cc", "-mavx"],
    "clang": ["clang"],
    "C++": ["c++", "-x", "c++", "-std=c++11"],
    "Cortex-M0": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m0"],
    "Cortex-M4": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
}
KINDS = [*boards.STUDENTS, "mlp-int8", "cnn-small-int8", "tree"]
ONLY_LARGER = ("mlp-large", "cnn")
"""Kinds whose C is that of another one with longer tables, in which cppcheck is slow."""


def needs(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed, see docs/on-a-board.md")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with an export of each kind of student."""
    folder = tmp_path_factory.mktemp("boards")
    with pytest.MonkeyPatch.context() as patch:  # the same code with tables that cppcheck is soon through with
        patch.setitem(boards.STUDENTS, "squashed", ("mlp:16,16@tanh", (17,), boards.SQUASHED))
        for kind in KINDS:
            (folder / kind).mkdir()
            boards.write_student(folder / kind, kind)
    return folder


@needs_cc
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_c_of_every_kind_of_student_compiles_without_a_warning(written, tmp_path, compiler):
    command = COMPILERS[compiler]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    flags = [flag for flag in STRICT if compiler != "C++" or flag not in ("-std=c99", "-pedantic")]  # vectors
    sources = [str(written / kind / "policy.c") for kind in KINDS]
    for source in sources:
        done = subprocess.run(
            [*command, *flags, "-c", source, "-o", str(tmp_path / "policy.o")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


PAGE = Path(__file__).parents[1] / "docs" / "on-a-board.md"


@pytest.fixture(scope="module")
def departures(written, tmp_path_factory):
    """What cppcheck says of every kind of student's C, and of which numbered rules its MISRA addon does."""
    addon = tmp_path_factory.mktemp("misra") / "misra.json"
    addon.write_text(json.dumps({"script": "misra.py", "args": ["--no-summary"]}))
    command = ["cppcheck", "--enable=warning,style,portability,performance", "--std=c99", f"--addon={addon}", "--quiet"]
    command += ["--suppress=duplicateAssignExpression"]  # several sums that begin with the same bias
    said = []
    for kind in (kind for kind in KINDS if kind not in ONLY_LARGER):  # each on its own: they are no one program
        source = str(written / kind / "policy.c")
        done = subprocess.run(
            [*command, "--template={id} {file}:{line} {message}", source], capture_output=True, text=True, check=True
        )
        said += done.stderr.splitlines()
    return [line for line in said if line[:1].isalpha()]


@needs("cppcheck")
def test_cppcheck_has_nothing_to_say_but_of_misras_rules(departures):
    assert [line for line in departures if not line.startswith("misra")] == []


@needs("cppcheck")
def test_the_page_names_the_rules_of_misra_that_are_departed_from(departures):
    found = {line.split()[0].removeprefix("misra-c2012-") for line in departures if line.startswith("misra-c2012-")}
    listed = PAGE.read_text(encoding="utf-8").partition("Of MISRA C:2012")[2].partition("They are left")[0]
    assert found == set(re.findall(r"\b\d{1,2}\.\d{1,2}\b", listed))


@needs("make", "qemu-system-arm", "arm-none-eabi-gcc")
@pytest.mark.parametrize(
    ("kind", "board", "most", "stack"),
    [("mlp", "mps2-an385", 40_000, 512), ("mlp-int8", "microbit", 10_000, 512), ("gru", "mps2-an386", 12_000, 1024)],
)
def test_a_board_answers_bit_for_bit_as_this_machine(written, kind, board, most, stack):
    found = boards.on_board(written / kind, board, records=6, repeats=10)
    assert found["observations"] == found["same"] == found["same_actions"] == 6
    assert found["largest_difference"] == 0.0
    assert 1_000 < found["instructions"] <= found["most"] < most
    assert 16 <= found["stack"] < stack
    assert found["flash"] > 1000


@needs("make", "qemu-system-arm", "arm-none-eabi-gcc")
def test_a_board_that_answers_otherwise_is_seen(written, tmp_path):
    folder = shutil.copytree(written / "linear", tmp_path / "linear")
    code = (folder / "policy.c").read_text()
    assert "static const float b0[2] = {" in code
    (folder / "policy.c").write_text(code.replace("static const float b0[2] = {", "static const float b0[2] = {1e-3f+"))
    found = boards.on_board(folder, "microbit", records=4, repeats=1)
    assert found["same"] == 0
    assert found["largest_difference"] == pytest.approx(1e-3, rel=1e-3)


@needs("make", "qemu-system-arm", "arm-none-eabi-gcc")
def test_what_is_too_large_for_a_board_is_told(written):
    with pytest.raises(boards.DoesNotFit):
        boards.on_board(written / "cnn", "microbit")


@needs("make", "qemu-mips", "mips-linux-gnu-gcc")
def test_a_big_endian_processor_answers_bit_for_bit(written):
    found = boards.on_board(written / "lstm", "mips", records=6)
    assert found["observations"] == found["same"] == 6


@needs_cc
@pytest.mark.parametrize("kind", ["mlp", "tree", "lstm", "several", "clipped"])
def test_the_same_main_runs_here(written, kind):
    found = boards.on_board(written / kind, "host")
    assert found == {"observations": 32, "same": 32, "same_actions": 32, "largest_difference": 0.0}


ARDUINO = """#include <stdint.h>
enum { A0, LED_BUILTIN = 13, OUTPUT = 1, LOW = 0, HIGH = 1 };
int analogRead(int); void digitalWrite(int, int); void pinMode(int, int);
unsigned long micros(); void delay(unsigned long);
struct Port { void begin(long); void print(const char *); void println(unsigned long); } extern Serial;
"""
"""What the sketch needs of Arduino's core, which calls sketches C++ and includes it unasked."""


@needs("arm-none-eabi-g++")
@pytest.mark.parametrize("kind", ["mlp", "mlp-int8", "gru", "history", "tree"])
def test_the_sketch_compiles_with_an_export(written, tmp_path, kind):
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    folder = shutil.copytree(written / kind, tmp_path / "arduino")
    shutil.copy(boards.BOARD / "arduino" / "arduino.ino", folder)
    command = ["arm-none-eabi-g++", "-mcpu=cortex-m4", "-mthumb", "-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-Os"]
    command += ["-include", str(tmp_path / "Arduino.h"), "-x", "c++", "-c", "arduino.ino", "-o", "sketch.o"]
    subprocess.run(command, cwd=folder, check=True)
    symbols = subprocess.run(["arm-none-eabi-nm", "sketch.o"], cwd=folder, capture_output=True, text=True, check=True)
    assert " U policy_act\n" in symbols.stdout, "as C, not as C++"
