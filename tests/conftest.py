"""What several tests share: small environments with known answers, and the real teachers where they are at hand."""

import math
import multiprocessing
import os
import sys
from contextlib import ExitStack
from multiprocessing import forkserver
from pathlib import Path

from distilrl import threads  # isort: skip  (before PyTorch: how its threads wait is read once)

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch

from distilrl.checkpoints import save_network
from distilrl.evaluate import latency_us
from distilrl.events import Step
from distilrl.heads import Categorical
from distilrl.networks import Network, build
from distilrl.series import distill_seeds
from distilrl.spaces import Choices
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher

os.environ["DISTILRL_CACHE"] = ""
ROOT = Path(__file__).parents[1]
TEACHERS = Path(os.environ.get("DISTILRL_TEACHERS", ROOT.parent / "shared" / "teachers"))


@pytest.fixture(scope="session", autouse=True)
def server_of_processes():
    """One for all tests, whichever asks first: it has imported what any of them needs."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(["distilrl.series", "distilrl.plan", "distilrl.envs.workers"])
        forkserver.ensure_running()


@pytest.fixture(autouse=True)
def _as_alone():
    """A test draws what it draws alone and on one thread, whichever ran before it in its process."""
    torch.manual_seed(0)
    threads.use_threads(1)


def real_teacher(name: str) -> Path:
    """Path of a real teacher file; skips the test where it is absent."""
    path = TEACHERS / name
    if not path.exists():
        pytest.skip(f"{name} is not here: set DISTILRL_TEACHERS to a folder that holds it")
    return path


MEAN, SPREAD = np.array([0.0, 3.0], np.float32), np.array([1.0, 5.0], np.float32)


class SignEnv(gymnasium.Env):
    """Two numbers; action 1 pays 1 if the first is positive, action 0 if not. Episodes of ten steps; 10 is best."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def _observe(self):
        self.obs = self.np_random.normal(0, 1, 2).astype(np.float32) * SPREAD + MEAN
        return self.obs

    def step(self, action):
        reward = float((self.obs[0] > 0) == bool(action))
        self.steps += 1
        return self._observe(), reward, self.steps >= 10, False, {}


class ForgetfulEnv(SignEnv):
    """Ignores its seed: no run in it can be resumed to the same result."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None, options=options)


class ContinuousEnv(SignEnv):
    """Actions that are not discrete."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)


class MultiEnv(SignEnv):
    """Two choices, of 2 and of 3: each pays half, the first as in SignEnv, the second for the option that the steps
    count to.
    """

    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def step(self, action):
        right = (self.obs[0] > 0) == bool(action[0]), int(action[1]) == self.steps % 3
        obs, _, *rest = super().step(action[0])
        return obs, sum(right) / 2, *rest


class LateEnv(SignEnv):
    """Actions that count from 1."""

    action_space = gymnasium.spaces.Discrete(2, start=1)

    def step(self, action):
        assert action in (1, 2), action
        return super().step(action - 1)


class MixedEnv(SignEnv):
    """A small picture, SignEnv's two numbers and a choice of three; real actions in a box of shape (1, 2), one side
    open.
    """

    observation_space = gymnasium.spaces.Dict(
        {
            "camera": gymnasium.spaces.Box(0, 255, (12, 16, 3), np.uint8),
            "body": gymnasium.spaces.Dict(
                {"numbers": SignEnv.observation_space, "gear": gymnasium.spaces.Discrete(3, start=1)}
            ),
        }
    )
    action_space = gymnasium.spaces.Box(np.array([[-2, -np.inf]], np.float32), np.array([[4, np.inf]], np.float32))

    def _observe(self):
        camera = self.np_random.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        return {"camera": camera, "body": {"numbers": super()._observe(), "gear": 1 + self.steps % 3}}

    def step(self, action):
        assert action.shape == (1, 2), action
        return super().step(action[0, 0] > 0)


class FaultyEnv(SignEnv):
    """Does what it must not: ``fault`` says what, at step 3, or in reset, init or render."""

    metadata = gymnasium.Env.metadata | {"render_modes": ["rgb_array"]}

    def __init__(self, fault="", render_mode=None):
        self.fault, self.render_mode = fault, render_mode
        self._fail("init")

    def _fail(self, where):
        if self.fault == where:
            raise ValueError(f"broken in {where}\nand a second line")

    def reset(self, *, seed=None, options=None):
        self._fail("reset")
        return super().reset(seed=seed)

    def render(self):
        self._fail("render")
        return np.zeros((4, 5), np.uint8) if self.fault == "picture" else np.zeros((4, 5, 3), np.uint8)

    def step(self, action):
        obs, reward, ended, cut, info = super().step(action)
        if self.steps < 3:
            return obs, reward, ended, cut, info
        self._fail("step")
        if self.fault == "exit":
            raise SystemExit(0)
        if self.fault == "die":
            os._exit(9)
        if self.fault == "old":
            return obs, reward, ended, info
        obs = {"none": None, "nan": obs * np.nan, "shape": np.zeros(5), "text": "left", "scalar": np.float32(1)}.get(
            self.fault, obs
        )
        reward = {"reward": np.nan, "nothing": None}.get(self.fault, reward)
        return obs, reward, ended, cut, info


for env in (SignEnv, ForgetfulEnv, ContinuousEnv, MultiEnv, LateEnv, MixedEnv, FaultyEnv):
    if f"distilrl/{env.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env, max_episode_steps=50)

SIGN = "distilrl/SignEnv-v0"


def sign_network(sign: float = 1.0) -> Network:
    """The known answer of SignEnv: Q(s, 1) − Q(s, 0) has the sign of the first number."""
    network = Network(NetworkSpec((2,), 2, hidden=(4,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[0, 0] = 1.0
        network.layers[0].weight[1, 0] = -1.0
        network.layers[2].weight[1, 0] = sign
        network.layers[2].weight[0, 1] = sign
    return network


def make_teacher(network: Network) -> Teacher:
    return Teacher(network, "q", "test", "memory", "0" * 64)


class Killed(Exception):
    """Stands for a run that is cut short."""


def killed_after(env_steps):
    """Watches a run and cuts it short once it has made more steps than these."""

    def watch(event):
        if isinstance(event, Step) and event.env_steps > env_steps:
            raise Killed

    return watch


def killed_at(moment=math.inf):
    """Events as they come, and who watches for them and cuts the run short at the one of this number."""
    seen = []

    def watch(event):
        seen.append(event)
        if len(seen) > moment:
            raise Killed

    return seen, watch


@pytest.fixture(autouse=True)
def shapes_of_losses(request):
    """Checked in the tests of what losses are and of each recipe's; elsewhere it would take a fifth of the time."""
    subjects = ("test_losses", "test_heads", "test_objective")
    checked = (
        request.module.__name__ in subjects or request.function.__name__ == "test_each_recipe_lowers_its_own_terms"
    )
    jaxtyping.config.update("jaxtyping_disable", not checked)


@pytest.fixture(autouse=True, scope="module")
def undrawn(request):
    """Reports have figures in the tests of reports alone: elsewhere to draw them would take longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in ("test_animate", "test_cli", "test_report"):
            draw_nothing(patch)
        yield


def draw_nothing(patch):
    """Reports without figures."""
    patch.setattr("distilrl.figures._svg", lambda _figure: "<svg></svg>")
    patch.setattr("distilrl.animate.courses", lambda *_given, **_named: {})
    patch.setattr("distilrl.figures.courses", lambda _found: "<svg></svg>")


@pytest.fixture(autouse=True, scope="session")
def hardly_timed():
    """Microseconds are of a few decisions: no test looks how many they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_us, "__defaults__", (10,))
        yield


@pytest.fixture(scope="session")
def ray_cluster():
    """Ray, connected to a cluster of this machine alone, once for all tests; its workers find the tests' modules."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'distilrl[ray]'")
    from distilrl.distributed import connect

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            ray = stack.enter_context(connect("local"))
        yield ray


@pytest.fixture(scope="session")
def fanout_home(tmp_path_factory):
    """A folder with a teacher, and a study over two seeds that all others must equal."""
    from test_fanout import job

    home = tmp_path_factory.mktemp("fanout")
    save_network(home / "teacher", sign_network(), Categorical(Choices((2,))), name="teacher")
    distill_seeds(None, job(home), home / "seeds", 2)
    return home


@pytest.fixture
def sign_teacher() -> Teacher:
    return make_teacher(sign_network())


@pytest.fixture
def teacher(tmp_path) -> str:
    """A folder with the same teacher."""
    save_network(tmp_path / "teacher", sign_network(), Categorical(Choices((2,))), name="teacher")
    return str(tmp_path / "teacher")


@pytest.fixture
def random_network() -> Network:
    return build(NetworkSpec((2,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
