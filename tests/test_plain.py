"""Dataclasses from plain data and back: unions, objects, fixed tuples, and each bad value its one sentence."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from distilrl.errors import SpecError
from distilrl.plain import from_plain, to_plain
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
