"""Games of ALE: its native vector environment emulates, resizes and stacks in C++, one for each game.

A vector environment of ALE steps all its games or none, and those whose episode has ended cost as much as the others
until the last one ends; with one for each game only the living step, at the same speed and with the same results.

Making an emulator takes as long as 250 steps of it, on one core, and so does seeding it: those that are closed are kept
for the next who asks, and where seeds lead to the same start that is known before any is made (`AleVecEnv.starts`).
"""

import atexit
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from distilrl.envs.interface import EnvInfo, Step, VecEnv
from distilrl.envs.single import FAULTS
from distilrl.envs.sync import check_count
from distilrl.errors import EnvError
from distilrl.spaces import Choices, EnvRef, ObsSpec
from distilrl.text import raised

FRAMES_PER_STEP, NOOP_MAX = 4, 30
SCREEN = (210, 160)
"""Height and width of what a picture shows."""
LONGEST = 108_000
"""Frames of an episode: half an hour."""
REGISTERED = {"obs_type": ("rgb",), "max_num_frames_per_episode": (LONGEST,), "frameskip": (1, 4, (2, 5))}
"""What ALE registers its games with, beside their names and `OWN_KWARGS`; (2, 5) are refused by name."""
OWN_KWARGS = {"repeat_action_probability", "full_action_space"}
"""What a game may be made with; the rest is fixed by DQN's protocol, or cannot be told to ALE's vector environment."""
MOST_IDLE = 128
"""Closed emulators of a kind that are kept, about 1 MiB each."""
SAME = {"pong": {"FIRE": "NOOP", "RIGHTFIRE": "RIGHT", "LEFTFIRE": "LEFT"}}
"""By game, actions that do what another does while the ball is in play: in Pong FIRE serves, and nothing else. Of other
games nothing is claimed."""
_idle: dict[tuple[Any, ...], list[Any]] = {}
"""Emulators that nobody uses, by what they were made with; a reset with a seed loads the game anew, so that nothing is
left of their last episode."""
_every_start: dict[tuple[Any, ...], list[int]] = {}
"""Seeds of all starts, by what a game was made with and the first seed."""
atexit.register(_idle.clear)  # ALE's bindings complain of what is alive when Python ends


def is_ale(spec: EnvSpec) -> bool:
    """Whether a registered environment is a game of ALE, as ALE itself registers it: what a user registers of the same
    class with another mode, observation or limit is no game that its vector environment plays.
    """
    fixed = {name: value for name, value in spec.kwargs.items() if name not in {"game", *OWN_KWARGS}}
    usual = all(value in REGISTERED.get(name, ()) for name, value in fixed.items())
    plain = spec.max_episode_steps is None and not spec.additional_wrappers
    return str(spec.entry_point).startswith("ale_py") and plain and usual


class AleVecEnv(VecEnv):
    """N copies of one game, preprocessed as DQN's (Mnih et al. 2015).

    Args:
        ref: what to make.
        spec: what is registered under its id.
        n_envs: number of copies N.
        sticky: probability that the last action is repeated; the game's own by default.
        threads: emulators that run at once.
        for_learning: rewards clipped to their sign, and a lost life ends the episode, while the game goes on; the next
            episode's first stack has zeros for what was before.
        pictures: they will be drawn: beside each game a second one is played to the same end, whose screen is seen in
            colour.

    Raises:
        EnvError: the game cannot be made, or not so.
    """

    def __init__(
        self,
        ref: EnvRef,
        spec: EnvSpec,
        n_envs: int,
        sticky: float | None,
        threads: int,
        for_learning: bool,
        pictures: bool = False,
    ) -> None:
        kwargs = _check_ref(ref, spec)
        sticky = float(kwargs.get("repeat_action_probability", 0.0)) if sticky is None else sticky
        self.n_envs = n_envs
        try:
            self._made = (str(spec.kwargs["game"]), bool(kwargs.get("full_action_space", False)), sticky, for_learning)
            self._games = [_take_idle(self._made) or _make_game(*self._made) for _ in range(n_envs)]
            self._screens = [_make_game(*self._made, colour=True) for _ in range(n_envs if pictures else 0)]
        except FAULTS as error:
            raise EnvError(f"Environment '{ref.label}' cannot be made: ALE {raised(error)}.") from error
        first = self._games[0]
        frames, height, width = (int(n) for n in first.single_observation_space.shape)
        shape = (frames, height, width)
        actions = [action.name for action in first.ale.get_action_set()]
        same = SAME.get(self._made[0], {})
        self.info = EnvInfo(
            ref,
            ObsSpec(shape, shape, "uint8", frames),
            Choices((int(first.single_action_space.n),)),
            atari=True,
            deterministic=sticky == 0.0,
            protocol={
                "actions": actions,
                "frame_skip": FRAMES_PER_STEP,
                "sticky_actions": sticky,
                "noop_max": NOOP_MAX,
                "fire_on_reset": True,
                "frame_stack": frames,
                "max_frames": LONGEST,
                "reward_clipping": for_learning,
                "life_loss_terminal": for_learning,
            },
            alike=tuple(actions.index(same.get(name, name)) for name in actions) if same else (),
        )
        self._threads = min(threads, n_envs)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="ale")
        self._running: list[Future[None]] = []
        self._obs: NDArray[Any] = np.zeros((n_envs, *shape), np.uint8)
        self._frames = np.zeros(n_envs, np.int64)
        self._before = np.zeros(n_envs, np.int64)
        """(N,) frames of a stack that are of before its episode."""
        self._pictures = np.zeros((n_envs if pictures else 0, *SCREEN, 3), np.uint8)
        self._step = self._nothing()

    def reset(self, seeds: NDArray[np.int64]) -> NDArray[Any]:
        check_count("seeds", seeds, self.n_envs)
        last = self._obs.shape[1] - 1

        def reset(i: int) -> None:
            obs, info = self._games[i].reset(seed=np.array([seeds[i]], np.int64))
            self._obs[i], self._frames[i], self._before[i] = obs[0], info["frame_number"][0], last
            if self._screens:
                self._pictures[i] = self._screens[i].reset(seed=np.array([seeds[i]], np.int64))[0][0, 0]

        self._wait()
        self._start(reset, list(range(self.n_envs)))
        self._wait()
        return self._obs.copy()

    def starts(self, seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """The frame of each first observation: without sticky actions, there are as many starts as counts of no-ops.

        ALE draws the count with ``std::mt19937`` and ``std::uniform_int_distribution(0, 29)``, of which the standard
        library may choose the second: this is libstdc++'s.
        """
        first = np.array([int.from_bytes(np.random.RandomState(seed).bytes(4), "little") for seed in seeds], np.int64)
        frames: NDArray[np.int64] = first * NOOP_MAX >> 32
        return frames.clip(self._least)

    def every_start(self, first: int) -> list[int]:
        """Seeds, from ``first`` on, of all counts of no-ops, which are equally likely: 30, of which the lowest two
        start alike where FIRE is pressed. Without sticky actions nothing else differs between episodes.

        That starts are as foretold is looked at in three of them; where they are not, each seed is tried.
        """
        known = _every_start.get((self._made, first))
        if known is not None:
            return known
        seeds = range(first, first + 1_000)
        foretold = dict(zip(seeds, self.starts(np.array(seeds)).tolist(), strict=True))
        as_foretold = all(self._start_of(seed) == foretold[seed] for seed in seeds[:3])
        by_start: dict[int, int] = {}
        wanted = np.arange(NOOP_MAX).clip(self._least).tolist()
        for seed in seeds:
            by_start.setdefault(foretold[seed] if as_foretold else self._start_of(seed), seed)
            if by_start.keys() >= set(wanted):
                break
        found = _every_start[self._made, first] = [by_start[start] for start in wanted]
        return found

    def _start_of(self, seed: int) -> int:
        """The frame in which the first game starts with a seed."""
        self.reset(np.full(self.n_envs, seed))
        return int(self._frames[0])

    @property
    def _least(self) -> int:
        """No-ops at least: pressing FIRE takes the frame of one."""
        return 1 if "FIRE" in self.info.protocol["actions"] else 0

    def start_keys(self) -> NDArray[np.int64]:
        return self._frames.copy()

    def send(self, actions: NDArray[Any], live: NDArray[np.bool_] | None = None) -> None:
        check_count("actions", actions, self.n_envs)
        step = self._step = self._nothing()
        chosen, last = actions[:, :1].astype(np.int64), self._obs.shape[1] - 1

        def play(i: int) -> None:
            self._games[i].send(chosen[i])
            obs, reward, terminated, truncated, _ = self._games[i].recv()
            self._obs[i], step.reward[i] = obs[0], reward[0]
            step.terminated[i], step.truncated[i] = terminated[0], truncated[0]
            self._before[i] = last if terminated[0] or truncated[0] else max(self._before[i] - 1, 0)
            self._obs[i, : self._before[i]] = 0
            if self._screens:
                self._screens[i].send(chosen[i])
                self._pictures[i] = self._screens[i].recv()[0][0, 0]

        self._start(play, list(range(self.n_envs)) if live is None else np.flatnonzero(live).tolist())

    def recv(self) -> Step:
        self._wait()
        return self._step._replace(obs=self._obs.copy())

    def picture(self, index: int) -> NDArray[np.uint8]:
        screen: NDArray[np.uint8] = self._pictures[index]
        return screen

    def close(self) -> None:
        self._pool.shutdown()
        idle = _idle.setdefault(self._made, [])
        idle += self._games[: MOST_IDLE - len(idle)]
        self._games, self._screens = [], []

    def _nothing(self) -> Step:
        """The answer where nobody steps."""
        n = self.n_envs
        ends = np.zeros((2, n), np.bool_)
        return Step(self._obs, np.zeros(n), ends[0], ends[1], np.zeros((n, 0)))

    def _start(self, do: Callable[[int], None], games: list[int]) -> None:
        """Does something to these games; a thread that is done with one takes the next."""
        todo = deque(games)

        def work() -> None:
            while todo:
                try:
                    i = todo.popleft()
                except IndexError:  # another thread took the last
                    return
                do(i)

        self._running = [self._pool.submit(work) for _ in range(min(self._threads, len(games)))]

    def _wait(self) -> None:
        running, self._running = self._running, []
        for future in running:
            future.result()


def _take_idle(made: tuple[Any, ...]) -> Any:
    """An emulator that was made so and is not used; None where there is none."""
    try:
        return _idle[made].pop()
    except LookupError:
        return None


def _make_game(game: str, full_action_space: bool, sticky: float, for_learning: bool, *, colour: bool = False) -> Any:
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        game,
        1,
        num_threads=1,
        frameskip=FRAMES_PER_STEP,
        noop_max=NOOP_MAX,
        repeat_action_probability=sticky,
        full_action_space=full_action_space,
        reward_clipping=for_learning,
        life_loss_info=for_learning,  # with `episodic_life` the game would begin anew: only first lives would be seen
        **({"grayscale": False, "stack_num": 1, "img_height": SCREEN[0], "img_width": SCREEN[1]} if colour else {}),
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )


def _check_ref(ref: EnvRef, spec: EnvSpec) -> dict[str, Any]:
    """What the game is made with.

    Raises:
        EnvError: something that ALE's vector environment cannot do.
    """
    fixed = [
        name for name in ("grey", "resize", "stack", "wrappers") if getattr(ref, name) != getattr(EnvRef("x"), name)
    ]
    fixed += sorted(set(ref.kwargs) - OWN_KWARGS)
    if fixed:
        raise EnvError(
            f"'{ref.label}' is a game of ALE, whose preprocessing is fixed (84x84 grey, 4 frames): "
            f"leave out {', '.join(fixed)}."
        )
    if not isinstance(spec.kwargs.get("frameskip"), int):
        name = spec.id.split("-")[0]
        raise EnvError(f"'{ref.label}' skips a random number of frames: use '{name}NoFrameskip-v4' or 'ALE/{name}-v5'.")
    kwargs = {**spec.kwargs, **ref.kwargs}
    sticky = kwargs.get("repeat_action_probability", 0.0)
    if not isinstance(sticky, int | float) or not 0 <= sticky <= 1:
        raise EnvError(
            f"'repeat_action_probability' of '{ref.id}' is a probability between 0 and 1, got {sticky!r:.40}."
        )
    return kwargs
