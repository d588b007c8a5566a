"""Dataclasses from plain data and back: unions, objects, fixed tuples, and each bad value its one sentence."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from distilrl.errors import SpecError
from distilrl.plain import check_fields, from_plain, to_plain
from distilrl.spaces import Bounds, Choices, EnvRef


@dataclass(frozen=True)
class Circle:
    radius: float
    kind: Literal["circle"] = "circle"

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise SpecError("The radius must be above 0.")


@dataclass(frozen=True)
class Square:
    side: float
    kind: Literal["square", "box"] = "square"
    hidden: int = field(default=0, init=False)


@dataclass(frozen=True)
class Drawing:
    shapes: tuple[Circle | Square, ...] = ()
    env: EnvRef = field(default_factory=lambda: EnvRef("X-v0"))
    action: Choices | Bounds | None = None
    place: tuple[int, str] = (0, "")
    extra: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    paint: str | Callable[..., Any] = "red"
    scale: float | None = None
    steps: int = 1
    on: bool = True


def test_all_kinds_read_back_the_same():
    drawing = Drawing(
        (Circle(1.0), Square(2.0, "box"), Square(1.0)),
        EnvRef("my_package:My-v0", {"n": [1, 2]}, ("a:B",), resize=(8, 9), stack=2),
        Bounds((None, 0.0), (1.0, 2.0)),
        (3, "here"),
        {"a": [1, {"b": None}]},
        {"x": 1.5},
        scale=2.0,
    )
    assert from_plain(Drawing, json.loads(json.dumps(to_plain(drawing))), "drawing") == drawing
    choices = Drawing(action=Choices((3, 2), space="MultiDiscrete", shape=(2,)))
    assert from_plain(Drawing, json.loads(json.dumps(to_plain(choices))), "drawing") == choices
    assert from_plain(Drawing, {}, "drawing") == Drawing()
    assert from_plain(Drawing, {"scale": 2}, "drawing").scale == 2.0


def test_modules_that_a_file_names_are_not_the_users_word():
    assert not from_plain(Drawing, {"env": {"id": "a:B-v0"}}, "drawing").env.named


def test_functions_are_written_by_name_and_not_read():
    data = to_plain(Drawing(paint=len))
    assert data["paint"] == "builtins:len"
    assert from_plain(Drawing, data, "drawing").paint == "builtins:len"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "'drawing' must be an object of names and values, got []"),
        ({"colour": 1}, "Unknown key 'colour' in 'drawing'"),
        ({"shapes": {}}, "'drawing.shapes' must be a list, got {}"),
        ({"shapes": [{"kind": "circle"}]}, "'drawing.shapes[0]' lacks 'radius'"),
        ({"shapes": [{"side": 1.0}, {"radius": 0.0}]}, "In 'drawing.shapes[1]': The radius must be above 0."),
        ({"shapes": [{"kind": "square", "radius": 1.0}]}, "Unknown key 'radius' in 'drawing.shapes[0]'"),
        ({"shapes": [{"side": 1.0, "hidden": 1}]}, "Unknown key 'hidden' in 'drawing.shapes[0]'"),
        (
            {"shapes": [{"side": 1.0, "kind": "ball"}]},
            "'drawing.shapes[0].kind' must be one of square, box, got 'ball'",
        ),
        ({"shapes": ["circle"]}, "'drawing.shapes[0]' must be an object"),
        ({"env": 3}, "'drawing.env' must be an environment's id"),
        ({"place": [1]}, "'drawing.place' must be a list of 2, got 1"),
        ({"place": [1, 2]}, "'drawing.place[1]' must be a text, got 2"),
        ({"extra": [1]}, "'drawing.extra' must be an object"),
        ({"weights": {"x": "much"}}, "'drawing.weights.x' must be a number, got 'much'"),
        ({"weights": {"x": float("nan")}}, "'drawing.weights.x' must be a number, got nan"),
        ({"scale": float("inf")}, "'drawing.scale' must be a number, got inf"),
        ({"scale": 10**400}, "'drawing.scale' must be a number"),
        ({"scale": True}, "'drawing.scale' must be a number, got True"),
        ({"steps": 1.0}, "'drawing.steps' must be a whole number, got 1.0"),
        ({"steps": None}, "'drawing.steps' must be a whole number, got None"),
        ({"on": 1}, "'drawing.on' must be true or false, got 1"),
        ({"paint": 3}, "'drawing.paint' must be a text, got 3"),
    ],
)
def test_each_bad_value_has_its_sentence(data, words):
    with pytest.raises(SpecError) as caught:
        from_plain(Drawing, data, "drawing")
    assert words in str(caught.value)


@dataclass(frozen=True)
class Given:
    count: int = 1
    share: float | None = 0.5
    name: str = ""
    shape: Circle | None = None
    shapes: tuple[Circle, ...] = ()
    pair: tuple[int, str] = (0, "")
    way: Literal["left", "right"] = "left"
    on: bool = False
    paint: str | Callable[..., Any] = "red"

    def __post_init__(self) -> None:
        check_fields(self, count="[1, inf)")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("count", 1e3, "'count' must be a whole number, got 1000.0: write 1000."),
        ("count", 1.5, "'count' must be a whole number, got 1.5."),
        ("count", True, "'count' must be a whole number, got True."),
        ("count", 0, "'count' must be at least 1, got 0."),
        ("share", "0.1", "'share' must be a number or None, got '0.1'."),
        ("name", 3, "'name' must be a text, got 3."),
        ("shape", 2.0, "'shape' must be a Circle or None, got 2.0: write Circle(2.0)."),
        ("shapes", (2.0,), "'shapes' must be a tuple, and each of it a Circle, got (2.0,)."),
        ("shapes", Circle(1.0), "'shapes' must be a tuple, and each of it a Circle"),
        ("pair", (0, "a", 1), "'pair' must be a tuple, got (0, 'a', 1)."),
        ("way", "up", "'way' must be one of left, right, got 'up'."),
        ("on", 1, "'on' must be true or false, got 1."),
    ],
)
def test_what_python_gives_is_held_to_what_a_file_would_be(field, value, words):
    """A run whose steps were a float could be finished, and then neither reported, exported nor resumed."""
    with pytest.raises(SpecError) as caught:
        Given(**{field: value})
    assert str(caught.value).startswith(words)


def test_what_suits_is_taken():
    made = Given(2, 1, "x", Circle(1), [Circle(2.0)], (1, "a"), "right", True, len)  # lists are as good as tuples
    assert from_plain(Given, json.loads(json.dumps(to_plain(Given(2, 1)))), "given") == Given(2, 1)
    assert made.shapes[0].radius == 2.0
