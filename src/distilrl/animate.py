"""Teacher and student in the same episode: side by side as an animated image, or step by step as numbers."""

import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from distilrl.envs import VecEnv, make_vec_env
from distilrl.evaluate import VERDICT_SEEDS
from distilrl.events import Drawn, Watch, silent
from distilrl.plain import check_number
from distilrl.policies import Policy
from distilrl.sensors import EXACT, Feed, Sensors
from distilrl.spaces import EnvLike

PANEL_WIDTH, TALLEST = 320, 480
"""Width of a picture and the most that it may be high, in pixels; it keeps its proportions."""
USUAL, SHORT = 3, 60
"""Steps from one picture to the next; and those of an episode of which each is shown, the next episodes following
where it has fewer.
"""


def side_by_side(
    policies: Mapping[str, Policy],
    env: EnvLike,
    *,
    sensors: Mapping[str, Sensors] | None = None,
    steps: int = 600,
    every: int | None = None,
    seconds: float = math.inf,
    seed: int = VERDICT_SEEDS,
    watch: Watch = silent,
) -> bytes:
    """Animated WebP of policies playing the same episode, greedily, and the next ones where it is short.

    Args:
        policies: name shown above the picture, and who plays.
        env: environment.
        sensors: how some of them see, by their names; the others see what is there.
        steps: environment steps at most.
        every: one picture per this many steps; None: per step of a short episode, per three of others.
        seconds: after which it ends, with what is drawn until then; a picture of a robot's meshes takes seconds itself
            where a processor draws it.
        seed: of the first episode; each of the next has one more.
        watch: told of each step.

    Raises:
        EnvError: the environment cannot be drawn, or not on this machine.
        ExtraError: drawing it needs a package that is not installed.

    Example::

        webp = side_by_side({"teacher": teacher.policy, "student": student}, "HalfCheetah-v5", steps=300)
    """
    check_number("steps", steps, "[1, inf)")
    if every is not None:
        check_number("every", every, "[1, inf)")
    begun = time.monotonic()
    frames: list[tuple[int, Image.Image]] = []
    longest = 0

    def draws(step: int) -> bool:
        return step % (every or USUAL) == 0 or (every is None and step < SHORT)

    for step, players in _play(policies, env, sensors or {}, steps, seed, watch, draws, at_least=SHORT):
        if draws(step):
            frames.append((step, _join([player.panel for player in players])))
        longest = max(longest, step + 1)
        if time.monotonic() - begun > seconds:
            break
    slow = every is None and longest <= SHORT
    first, *rest = [one for step, one in frames if slow or step % (every or USUAL) == 0]
    pause = 200 if slow else 50  # milliseconds
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=pause, loop=0, quality=60, method=2)
    return buffer.getvalue()


@dataclass(frozen=True)
class Course:
    """What a policy did in an episode, and what it got."""

    actions: NDArray[np.float64]
    """(T, P): a choice's number, or a real action, of every step."""
    rewards: NDArray[np.float64]
    """(T,)"""
    real: bool
    """Whether actions are real, not choices."""


def courses(
    policies: Mapping[str, Policy],
    env: EnvLike,
    *,
    sensors: Mapping[str, Sensors] | None = None,
    steps: int = 600,
    seed: int = VERDICT_SEEDS,
    watch: Watch = silent,
) -> dict[str, Course]:
    """One episode of several policies, played greedily, step by step; arguments as of `side_by_side`.

    Example::

        found = courses({"teacher": teacher.policy, "student": student}, "MountainCar-v0")
        found["student"].rewards.sum()
    """
    check_number("steps", steps, "[1, inf)")
    *_, (_, players) = _play(policies, env, sensors or {}, steps, seed, watch, None)
    return {one.name: Course(_taken(one), np.array(one.rewards), one.policy.head.real) for one in players}


def _taken(player: "_Player") -> NDArray[np.float64]:
    """Actions (T, P) as the environment counts them."""
    start = getattr(player.policy.head.action, "start", ())
    actions: NDArray[np.float64] = np.concatenate(player.actions, dtype=np.float64)
    return actions + np.array(start) if start else actions


def _play(
    policies: Mapping[str, Policy],
    env: EnvLike,
    sensors: Mapping[str, Sensors],
    steps: int,
    seed: int,
    watch: Watch,
    draws: Callable[[int], bool] | None,
    at_least: int = 1,
) -> Iterator[tuple[int, list["_Player"]]]:
    """Step of an episode, from 0, and those who have played it; ``draws``: of which steps there is a picture, None
    where nothing is drawn; ``at_least``: steps before which another episode is begun.
    """
    players: list[_Player] = []
    taken = 0
    try:
        for name, policy in policies.items():
            envs = make_vec_env(env, 1, pictures=draws is not None)
            players.append(_Player(name, policy, envs, sensors.get(name, EXACT)))
        for episode in itertools.count(seed):
            for player in players:
                player.begin(episode)
            for step in range(steps - taken):
                for player in players:
                    player.step(draw=draws is not None and draws(step))
                taken += 1
                watch(Drawn(taken, steps))
                yield step, players
                if all(player.over for player in players):
                    break
            if taken >= min(at_least, steps):
                return
    finally:
        for player in players:
            player.envs.close()


class _Player:
    """One policy in an environment of its own."""

    def __init__(self, name: str, policy: Policy, envs: VecEnv, sensors: Sensors) -> None:
        self.name, self.policy, self.envs, self.sensors = name, policy, envs, sensors
        self.actions: list[NDArray[np.generic]] = []
        self.rewards: list[float] = []
        self.panel: Image.Image

    def begin(self, seed: int) -> None:
        """Its next episode; what it did and got in those before is kept."""
        self.feed = Feed(self.sensors, [seed], self.envs.info.obs.frames)
        self.obs = self.envs.reset(np.array([seed]))
        self.state = self.policy.start(1)
        self.over = False

    def step(self, *, draw: bool) -> None:
        """One step of its episode, unless that is over; drawn before, if so wished."""
        if self.over:
            return
        if draw:
            self.panel = _panel(self.envs, self.name, sum(self.rewards))
        seen = self.feed.see(self.obs, np.array([0]))
        actions, self.state = self.policy.act(torch.from_numpy(seen), self.state)
        self.envs.send(actions.numpy())
        answer = self.envs.recv()
        self.obs = answer.obs
        self.actions.append(actions.numpy())
        self.rewards.append(float(answer.reward[0]))
        self.over = bool(answer.terminated[0] or answer.truncated[0])


def _panel(envs: VecEnv, name: str, so_far: float) -> Image.Image:
    """The environment's picture under a line of text."""
    picture = Image.fromarray(envs.picture(0))
    factor = min(PANEL_WIDTH / picture.width, TALLEST / picture.height)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
    panel = Image.new("RGB", (PANEL_WIDTH, height + 24), "white")
    panel.paste(picture, ((PANEL_WIDTH - width) // 2, 24))
    number = f"{so_far:,.0f}" if so_far == round(so_far) else f"{so_far:,.1f}"
    ImageDraw.Draw(panel).text((6, 6), f"{name}: {number}", fill="black", font_size=13)
    return panel


def _join(panels: list[Image.Image]) -> Image.Image:
    """Panels in a row."""
    gap = 12
    width = sum(p.width for p in panels) + gap * (len(panels) - 1)
    joined = Image.new("RGB", (width, max(p.height for p in panels)), "white")
    left = 0
    for panel in panels:
        joined.paste(panel, (left, 0))
        left += panel.width + gap
    return joined
