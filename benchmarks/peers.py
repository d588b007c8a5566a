"""CPU seconds and environment steps to the teacher's score, ours beside other libraries.

    python benchmarks/peers.py METHOD --task TASK --seed 0 --teachers FOLDER --out OUT.jsonl
    python benchmarks/peers.py queue --teachers FOLDER --out OUT.jsonl --python ours=... --python imitation=...

METHOD is `ours`, `ppd`, `student-distill`, `dagger`, `bc` or `rsl-rl`, or learns from reward alone: `dqn`, `qrdqn`.
Each runs in an environment that holds its library (benchmarks/README.md has the commands). A line that OUT.jsonl
already has is not run again, so a queue that was stopped goes on where it was.

Protocol, the same for all. One thread; the student is 64-64 for Unitree's Go1, 32-32 in other continuous control and
16-16 elsewhere, and DQN's network is rl-zoo3's 256-256. In tasks that want memory the student is shown its last
observations side by side, without what is hidden from it, or has a GRU (`ours` and `rsl-rl`; imitation has no
students with a cell). Every `grid` steps the deterministic student plays 50 episodes,
100 in CartPole, Acrobot and LunarLander, on the seeds on which its teacher and random play were measured in the same
process's environment; the score is (student - random) / (teacher - random).
Parity at 0.95 and 0.99 is the second check in a row at or above it.
Seconds are process time of collecting and learning; checks are not counted. Steps are all that the environments made,
those that a library throws away included. Rivals see observations that are normalised as the teacher's are, where the
teacher has statistics; ours sees raw ones. What is not a library's own default is said where it is set.
"""

import argparse
import contextlib
import copy
import json
import multiprocessing
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from rl_zoo import DQN, QRDQN

CHECK_SEEDS = 20_000_000
"""The first seed of checks: the selection seeds of this project's own runs."""
LIMIT_S = 3_600.0
"""CPU seconds of one line at most."""


class Task(NamedTuple):
    """An environment and its teacher."""

    env: str
    algorithm: str
    file: str
    grid: int
    cap: int
    normalised: bool = False
    old: str = ""
    hidden: tuple[int, ...] = (32, 32)
    options: tuple[tuple[str, float], ...] = ()
    unseen: tuple[int, ...] = ()
    """Places of an observation that the teacher sees and students do not."""
    history: int = 1
    """How many observations students see at once."""
    cell: int = 0
    """Of the student's GRU, if it has one."""
    their_cell: int = 0
    """Of rsl_rl's, which nothing goes past, with about as many parameters in all."""
    episodes: int = 50
    """Of a check, and of teacher and random play."""

    @property
    def student(self) -> str:
        """The student as this project names it."""
        cell, history = f"+gru:{self.cell}" if self.cell else "", f"@history={self.history}" if self.history > 1 else ""
        return f"mlp:{','.join(map(str, self.hidden))}{cell}{history}"

    def teacher(self, folder: Path) -> Path:
        """The teacher's file, or its folder where it is one of zoo/; not by lines.py, which rivals could not import."""
        path = Path(self.file) if self.file.startswith("zoo/") else folder / self.file
        return path if path.exists() else folder / f"{self.file}.zip"


TASKS = {
    "cartpole": Task("CartPole-v1", "DQN", "cartpole-dqn-sb3", 500, 20_000, hidden=(16, 16), episodes=100),
    "acrobot": Task("Acrobot-v1", "DQN", "acrobot-dqn-sb3", 500, 20_000, hidden=(16, 16), episodes=100),
    "lander": Task(
        "LunarLander-v3",
        "DQN",
        "zoo/lunarlander-dqn",
        1_000,
        40_000,
        old="LunarLander-v2",
        hidden=(16, 16),
        episodes=100,
    ),
    "pendulum": Task("Pendulum-v1", "SAC", "sac-Pendulum-v1", 500, 40_000),
    "walker": Task("BipedalWalker-v3", "A2C", "a2c-BipedalWalker-v3", 500, 60_000, True),
    "hopper": Task("Hopper-v5", "TRPO", "trpo-Hopper-v3", 500, 200_000, True, "Hopper-v4"),
    "cheetah-ppo": Task("HalfCheetah-v5", "PPO", "ppo-HalfCheetah-v3", 2_000, 200_000, True, "HalfCheetah-v4"),
    "cheetah-tqc": Task("HalfCheetah-v5", "TQC", "tqc-HalfCheetah-v3", 2_000, 200_000, False, "HalfCheetah-v4"),
    "go1": Task(
        "examples.unitree:Go1-v0",
        "ONNX",
        "unitree_go1/policy.onnx",
        1_000,
        100_000,
        hidden=(64, 64),
        options=(("noise", 1.0), ("push", 1.0)),
    ),
    "cartpole-positions": Task(
        "CartPole-v1", "DQN", "cartpole-dqn-sb3", 500, 20_000, hidden=(16,), unseen=(1, 3), history=3
    ),
    "hopper-positions": Task(
        "Hopper-v5", "TRPO", "trpo-Hopper-v3", 1_000, 50_000, True, "Hopper-v4", unseen=tuple(range(5, 11)), history=3
    ),
    "g1": Task("examples.unitree:G1-v0", "LSTM", "unitree_g1/motion.pt", 10_000, 250_000),
    "g1-gru": Task(
        "examples.unitree:G1-v0", "LSTM", "unitree_g1/motion.pt", 10_000, 250_000, hidden=(28,), cell=10, their_cell=12
    ),
}  # v4 and v5 of Hopper and HalfCheetah show and do the same, and so do v2 and v3 of LunarLander without wind
MEMORY = ("cartpole-positions", "hopper-positions", "g1", "g1-gru")
"""Tasks whose students see less than the teacher, or whose teacher remembers."""
DISCRETE = tuple(name for name, task in TASKS.items() if task.algorithm == "DQN")
ON_POLICY = ("A2C", "TRPO", "PPO")
"""Teachers with `get_distribution`, without which sb3_distill cannot do."""
SCRATCH = {"dqn": DQN, "qrdqn": QRDQN}
"""Methods without a teacher, and what they are trained with."""
RATES = {"ppd": 3e-4, "student-distill": 7e-4, "dagger": 1e-3, "bc": 1e-3, "rsl-rl": 1e-3}
"""Default learning rates, of which --rate gives a multiple; the other methods have their own in each environment."""
COPIES = {"ours": 8, "ppd": 1, "student-distill": 8, "dagger": 1, "bc": 1, "rsl-rl": 8, "dqn": 1, "qrdqn": 1}
"""Environments that step together, unless --copies says otherwise. For PPD one, of which its 2,048 steps make a rollout
as in PPO's own defaults; for DAgger and BC one, since a round waits for all and takes whole episodes: fewest steps a
round.
"""
INTERPRETER = {
    "ours": "ours", "ppd": "sb3_distill", "student-distill": "sb3_distill", "dagger": "imitation", "bc": "imitation",
    "rsl-rl": "rsl_rl", "dqn": "imitation", "qrdqn": "imitation",
}  # fmt: skip


def supports(method: str, task: str) -> bool:
    """Whether a method can use a task's teacher, or its actions, and has students that see what they may."""
    about = TASKS[task]
    if about.cell:
        return method in ("ours", "rsl-rl")
    if method in SCRATCH:
        return task in DISCRETE and not about.unseen
    if INTERPRETER[method] == "sb3_distill":
        return about.algorithm in ON_POLICY and not about.unseen
    return method != "rsl-rl" or task not in DISCRETE


# -- environments and teachers


def env_id(task: Task) -> str:
    """The newest of its names that this Gymnasium knows."""
    import gymnasium

    return task.env if ":" in task.env or task.env in gymnasium.registry else task.old


def make_env(task: Task):
    import gymnasium

    env = gymnasium.make(env_id(task), disable_env_checker=True, **dict(task.options))
    return with_past(env, task.history) if task.history > 1 else env


def with_past(env, count: int):
    """Shows the last observations side by side, the oldest first; before the first of an episode that one again."""
    import gymnasium
    import numpy as np

    class Past(gymnasium.Wrapper):
        def __init__(self, env) -> None:
            super().__init__(env)
            low, high = (np.tile(bound, count) for bound in (env.observation_space.low, env.observation_space.high))
            self.observation_space = gymnasium.spaces.Box(low, high, dtype=env.observation_space.dtype)

        def reset(self, **options):
            obs, info = self.env.reset(**options)
            self.past = [obs] * count
            return np.concatenate(self.past), info

        def step(self, action):
            obs, *told = self.env.step(action)
            self.past = [*self.past[1:], obs]
            return np.concatenate(self.past), *told

    return Past(env)


def places_seen(task: Task, width: int) -> list[int]:
    """Which numbers of what `make_env` shows, that many, the student sees."""
    return [place for place in range(width) if place % (width // task.history) not in task.unseen]


def play(task: Task, seeds, act):
    """Returns (E,) of one episode for each seed; ``act`` maps raw observations (E, D) to actions, of ended episodes
    too, and is told by ``begin`` that episodes do, if it wants to know. Each core plays a part of them, in a copy of
    this process, whose own clock stands meanwhile.
    """
    import numpy as np

    fork, told, cores = multiprocessing.get_context("fork"), [], os.cpu_count() or 1
    for part in np.array_split(seeds, min(cores, len(seeds))):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=lambda: theirs.send(_play(task, part, act)))  # noqa: B023  (it is forked here)
        process.start()
        theirs.close()  # so that a copy that ends without an answer is an end of file
        told.append((ours, process))
    returns = [ours.recv() for ours, _ in told]
    for _, process in told:
        process.join()
    return np.concatenate(returns)


def _play(task: Task, seeds, act):
    import numpy as np

    envs = [make_env(task) for _ in seeds]
    obs = np.stack([env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)])
    returns, live, space = np.zeros(len(envs)), list(range(len(envs))), envs[0].action_space
    getattr(act, "begin", lambda: None)()
    while live:
        actions = np.asarray(act(obs)).reshape(len(envs), *space.shape)
        if space.shape:
            actions = np.clip(actions, space.low, space.high).astype(np.float32)
        for i in tuple(live):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += reward
            if terminated or truncated:
                live.remove(i)
    for env in envs:
        env.close()
    return returns


class Plain:
    """Stands for a class of a pickle of which only the fields are wanted."""

    def __init__(self, *args) -> None:
        self.args = args

    def __setstate__(self, state) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class Statistics(pickle.Unpickler):
    """Reads a VecNormalize that was written under gym, which is not installed here."""

    def find_class(self, module: str, name: str):
        return Plain if module.startswith(("gym", "stable_baselines3")) else super().find_class(module, name)


def from_onnx(path: Path, env):
    """An ONNX file, which takes one observation at a time, as stable-baselines3 has its models."""
    import numpy as np
    import onnxruntime
    import torch
    from stable_baselines3.common.policies import BasePolicy

    one = onnxruntime.SessionOptions()
    one.intra_op_num_threads = one.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, one)
    name = session.get_inputs()[0].name

    class File(BasePolicy):
        def _predict(self, observation, deterministic=False):  # noqa: ARG002
            rows = observation.numpy()[:, None]
            return torch.from_numpy(np.concatenate([session.run(None, {name: row})[0] for row in rows]))

    policy = File(env.observation_space, env.action_space)
    return SimpleNamespace(policy=policy, predict=policy.predict)


def from_torchscript(path: Path, env):
    """Unitree's walking policy, an LSTM and two dense layers, as stable-baselines3 has its recurrent ones."""
    import numpy as np
    import torch
    from stable_baselines3.common.policies import BasePolicy
    from torch import nn

    tensors = torch.jit.load(str(path), map_location="cpu").state_dict()
    layers = {
        "memory": nn.LSTM(47, 64, batch_first=True),
        "actor": nn.Sequential(nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 12)),
    }
    network = nn.ModuleDict(layers)
    network.load_state_dict({name: tensors[name] for name in network.state_dict()})

    class File(BasePolicy):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):  # noqa: ARG002
            begun = np.zeros(len(observation), bool) if episode_start is None else episode_start
            state = tuple(
                np.where(begun[:, None], 0, part) for part in state or (np.zeros((len(observation), 64)),) * 2
            )
            with torch.no_grad():
                before = tuple(torch.from_numpy(part).float()[None] for part in state)
                out, after = network["memory"](torch.from_numpy(observation).float()[:, None], before)
                return network["actor"](out[:, 0]).numpy(), tuple(part[0].numpy() for part in after)

        def _predict(self, observation, deterministic=False):
            raise NotImplementedError

    policy = File(env.observation_space, env.action_space)
    return SimpleNamespace(policy=policy, predict=policy.predict)


def reading_the_newest(model, env, count: int):
    """A model that is shown the last observations side by side, and reads the newest."""
    from stable_baselines3.common.policies import BasePolicy

    class Newest(BasePolicy):
        def _predict(self, observation, deterministic=False):
            newest = observation[:, -(observation.shape[1] // count) :]
            return model.policy._predict(newest, deterministic)

    policy = Newest(env.observation_space, env.action_space, squash_output=model.policy.squash_output)
    return SimpleNamespace(policy=policy, predict=policy.predict)


class Teacher:
    """A teacher as stable-baselines3 has it, and the normaliser that belongs to it."""

    def __init__(self, task: Task, folder: Path) -> None:
        env = make_env(task._replace(history=1))
        self.task, self.statistics, self.state, self.ended = task, None, None, None
        self._load(env, folder)
        if task.history > 1:
            self.model = reading_the_newest(self.model, make_env(task), task.history)

    def _load(self, env, folder: Path) -> None:
        import numpy as np
        import sb3_contrib
        import stable_baselines3

        task, path = self.task, self.task.teacher(folder)
        if path.suffix == ".pt":
            self.model = from_torchscript(path, env)
            return
        if path.suffix == ".onnx":
            self.model = from_onnx(path, env)
            return
        maker = getattr(stable_baselines3, task.algorithm, None) or getattr(sb3_contrib, task.algorithm)
        old = {"lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.2, "learning_rate": 0.0}
        spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
        if path.is_dir():  # the network of the same form, with its weights
            from safetensors.torch import load_file

            weights = load_file(path / "teacher.safetensors")
            self.model = maker("MlpPolicy", env, policy_kwargs={"net_arch": [256, 256]}, buffer_size=1, device="cpu")
            network = self.model.policy.q_net.q_net
            network.load_state_dict({name.removeprefix("layers."): value for name, value in weights.items()})
        else:
            self.model = maker.load(path, device="cpu", custom_objects=old | spaces)
        if task.normalised:
            with (folder / f"{task.file}.vecnormalize.pkl").open("rb") as file:
                self.statistics = Statistics(file).load()
            own = self.statistics.obs_rms
            own.mean, own.var = np.tile(own.mean, task.history), np.tile(own.var, task.history)

    def see(self, obs):
        """Observations (N, D) as the teacher is shown them."""
        import numpy as np

        s = self.statistics
        if s is None:
            return obs
        seen = (obs - s.obs_rms.mean) / np.sqrt(s.obs_rms.var + s.epsilon)
        return np.clip(seen, -s.clip_obs, s.clip_obs).astype(np.float32)

    def begin(self) -> None:
        """All episodes begin."""
        self.state = self.ended = None

    def __call__(self, obs):
        return self.next_actions(self.see(obs))

    def next_actions(self, seen):
        """Of what it is shown (N, D), which comes next in each episode, or first in those that `ended` says."""
        told = {"state": self.state, "episode_start": self.ended, "deterministic": True}
        actions, self.state = self.model.predict(seen, **told)
        return actions

    def envs(self, copies: int, seed: int, reward: bool = False):
        """Environments that count their steps, and show what the teacher sees; ``reward``: normalised as its was."""
        from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize

        class Counter(VecEnvWrapper):
            steps = 0

            def reset(self):
                return self.venv.reset()

            def step_wait(self):
                self.steps += self.num_envs
                return self.venv.step_wait()

        envs = counter = Counter(DummyVecEnv([lambda: make_env(self.task)] * copies))
        if self.statistics is not None:
            s = self.statistics
            envs = VecNormalize(counter, False, True, reward, s.clip_obs, s.clip_reward, s.gamma, s.epsilon)
            for own, stored in ((envs.obs_rms, s.obs_rms), (envs.ret_rms, s.ret_rms)):
                own.mean, own.var, own.count = stored.mean, stored.var, stored.count
        envs.seed(seed * 10_000)
        return envs, counter


def our_env(task: Task):
    """The environment as this project names it."""
    from distilrl import EnvRef, trust

    trust(*env_id(task).split(":")[:-1])
    return EnvRef(env_id(task), dict(task.options))


def our_teacher(task: Task, folder: Path):
    """The same teacher as this project reads it."""
    from distilrl import TeacherFile, describe_env, load_teacher

    normalizer = str(folder / f"{task.file}.vecnormalize.pkl") if task.normalised else None
    file = TeacherFile(str(task.teacher(folder)), normalizer=normalizer)
    return load_teacher(file).fitted(describe_env(our_env(task)))


class OurPolicy:
    """A policy of ours, which answers raw observations as arrays."""

    def __init__(self, policy) -> None:
        self.policy, self.state = policy, ()

    def begin(self) -> None:
        self.state = ()

    def __call__(self, obs):
        import torch

        actions, self.state = self.policy.act(torch.from_numpy(obs).float(), self.state or self.policy.start(len(obs)))
        return actions.numpy()


def baseline(task: Task, seed: int, act, cache: Path) -> tuple[float, float]:
    """Mean returns of teacher and random play on the seeds of this seed's checks, measured once."""
    import gymnasium
    import numpy as np

    known = json.loads(cache.read_text()) if cache.exists() else {}
    key = f"{task.file} {env_id(task)} gymnasium {gymnasium.__version__} seed {seed}, {task.episodes} episodes"
    if key not in known:
        seeds = CHECK_SEEDS + seed * 1_000 + np.arange(task.episodes)
        space, rng = make_env(task).action_space, np.random.default_rng(0)
        if space.shape:
            random = play(task, seeds, lambda obs: rng.uniform(space.low, space.high, (len(obs), *space.shape)))
        else:
            random = play(task, seeds, lambda obs: rng.integers(space.n, size=len(obs)))
        known[key] = [float(play(task, seeds, act).mean()), float(random.mean())]
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known, indent=1) + "\n")
    return tuple(known[key])


# -- the clock and the checks


class Meter:
    """Process time between checks, and what the checks found."""

    def __init__(self, task: Task, seed: int, teacher: float, random: float) -> None:
        import numpy as np

        self.task, self.teacher, self.random = task, teacher, random
        self.seeds = CHECK_SEEDS + seed * 1_000 + np.arange(task.episodes)
        self.checks: list[tuple[int, float, float, float]] = []
        self.next, self.spent, self.since, self.over = task.grid, 0.0, time.process_time(), ""

    def start(self) -> None:
        """What comes now is counted."""
        self.since = time.process_time()

    def due(self, steps: int) -> bool:
        return steps >= self.next

    def check(self, steps: int, act) -> bool:
        """Stops the clock, plays, notes the score; whether training ends here."""
        self.spent += time.process_time() - self.since
        self.note(steps, float(play(self.task, self.seeds, act).mean()))
        self.start()
        return bool(self.over)

    def note(self, steps: int, mean: float) -> None:
        self.next = (steps // self.task.grid + 1) * self.task.grid
        score = (mean - self.random) / (self.teacher - self.random)
        self.checks.append((steps, round(self.spent, 3), round(mean, 2), round(score, 4)))
        ends = {"parity": self.parity(0.99)[0], "cap": steps >= self.task.cap, "limit of seconds": self.spent > LIMIT_S}
        self.over = next((why for why, there in ends.items() if there), "")
        print(f"  {steps:>7} steps {self.spent:8.2f} s  return {mean:9.1f}  score {score:.3f}", flush=True)

    def parity(self, score: float) -> tuple[int | None, float | None]:
        """Steps and seconds at the second check in a row with this score."""
        for before, now in zip(self.checks, self.checks[1:], strict=False):
            if before[3] >= score and now[3] >= score:
                return now[0], now[1]
        return None, None

    def row(self) -> dict:
        result = {"teacher": self.teacher, "random": self.random, "env_steps": self.checks[-1][0], "cpu_s": self.spent}
        for name, score in (("95", 0.95), ("99", 0.99)):
            result[f"steps_{name}"], result[f"cpu_{name}"] = self.parity(score)
        return result | {"stopped": self.over, "best": max(check[3] for check in self.checks), "checks": self.checks}


class Line(NamedTuple):
    """One run: what a line of the output is about."""

    task: Task
    seed: int
    learning_rate: float | None
    copies: int
    folder: Path
    cache: Path


def rival(line: Line) -> tuple[Teacher, Meter]:
    """Teacher and meter of another library's run, its random draws seeded."""
    import numpy as np
    import torch

    teacher = Teacher(line.task, line.folder)
    known = baseline(line.task, line.seed, teacher, line.cache)
    teacher.begin()
    np.random.seed(line.seed)  # noqa: NPY002  (the libraries draw from it)
    torch.manual_seed(line.seed)
    return teacher, Meter(line.task, line.seed, *known)


# -- the methods


def ours(line: Line) -> Meter:
    """`distil` as it is; its own check plays the same episodes, and its acceptance is the teacher on them."""
    from distilrl import make_config, train
    from distilrl.events import Check, Event, Step
    from distilrl.played import Acceptance

    task, teacher = line.task, our_teacher(line.task, line.folder)
    known = baseline(task._replace(history=1), line.seed, OurPolicy(teacher.policy), line.cache)
    meter = Meter(task, line.seed, *known)
    config = make_config(
        "distil",
        our_env(task),
        network=task.student,
        hidden_features=task.unseen,
        seed=line.seed,
        n_envs=line.copies,
        env_steps=task.cap,
        check_every=task.grid,
        check_episodes=task.episodes,
        gap=0.01,
        patience=2,
        agreement=0.0,
        threads=1,
    )
    # the acceptance is what scores are relative to: here the teacher's return on the very seeds of the checks
    acceptance = Acceptance(
        return_mean=known[0],
        return_iqm=known[0],
        return_ci95=(known[0], known[0]),
        episodes=task.episodes,
        distinct_episodes=task.episodes,
        longest_episode=10**6,
        random_return_mean=known[1],
        better_than_random=True,
        worst_loss=known[0] - known[1],
        exact=False,
    )
    stopped = 0.0

    def watch(event: Event) -> None:
        nonlocal stopped
        match event:
            case Step():
                stopped = time.process_time()
            case Check(row=row):
                meter.spent += stopped - meter.since
                meter.note(row["env_steps"], row["return"])
                meter.start()

    meter.start()
    train(config, teacher, acceptance=acceptance, watch=watch)
    return meter


def _sb3_distill(line: Line, ppd: bool) -> Meter:
    """PPD or StudentDistill with their constructors' settings; a teacher with gSDE needs a student with it."""
    import sb3_distill
    from stable_baselines3.common.callbacks import BaseCallback

    teacher, meter = rival(line)
    envs, counter = teacher.envs(line.copies, line.seed, reward=True)
    make = sb3_distill.ProximalPolicyDistillation if ppd else sb3_distill.StudentDistill
    model = make(
        "MlpPolicy", envs, learning_rate=line.learning_rate, seed=line.seed, device="cpu",
        use_sde=teacher.model.use_sde, policy_kwargs={"net_arch": [32, 32]},
    )  # fmt: skip
    model.set_teacher(teacher.model)

    class Checks(BaseCallback):
        def _on_step(self) -> bool:
            return not meter.over

        def _on_rollout_start(self) -> None:  # the update of the last rollout is done
            if meter.due(counter.steps):
                meter.check(counter.steps, act)

    def act(obs):
        model.policy.set_training_mode(False)
        return model.policy.predict(teacher.see(obs), deterministic=True)[0]

    meter.start()
    model.learn(line.task.cap, callback=Checks())
    if not meter.over:
        meter.check(counter.steps, act)
    return meter


def ppd(line: Line) -> Meter:
    return _sb3_distill(line, True)


def student_distill(line: Line) -> Meter:
    return _sb3_distill(line, False)


def _imitation(line: Line, dagger: bool) -> Meter:
    """DAgger in rounds; BC: whole episodes of the teacher, `grid` steps at least, then 4 epochs over all, and so on.

    Default policy (but for its widths), batch, losses and schedule; no episodes for the log; deterministic teacher in
    both.
    """
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # DAgger keeps its rounds as such data sets
    import numpy as np
    from imitation.algorithms import bc as cloning
    from imitation.algorithms.dagger import SimpleDAggerTrainer
    from imitation.data import rollout
    from imitation.util import logger
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    teacher, meter = rival(line)
    envs, counter = teacher.envs(line.copies, line.seed)
    seen = places_seen(line.task, envs.observation_space.shape[0])

    class Seen(BaseFeaturesExtractor):
        def __init__(self, space) -> None:
            super().__init__(space, len(seen))

        def forward(self, obs):
            return obs[:, seen]

    extractor = {"features_extractor_class": Seen} if line.task.unseen else {}
    rng, quiet = (
        np.random.default_rng(line.seed),
        {"progress_bar": False, "log_interval": 10**9, "log_rollouts_venv": None},
    )
    with tempfile.TemporaryDirectory() as scratch:
        silent = logger.configure(scratch, format_strs=[])
        spaces = {"observation_space": envs.observation_space, "action_space": envs.action_space}
        policy = ActorCriticPolicy(**spaces, lr_schedule=lambda _: 0.0, net_arch=list(line.task.hidden), **extractor)
        trainer = cloning.BC(
            **spaces, policy=policy, rng=rng, device="cpu",
            optimizer_kwargs={"lr": line.learning_rate}, custom_logger=silent,
        )  # fmt: skip
        model, flat = teacher.model, []
        trainers = {"bc_trainer": trainer, "rng": rng, "custom_logger": silent}
        rounds = SimpleDAggerTrainer(venv=envs, scratch_dir=scratch, expert_policy=model.policy, **trainers)
        meter.start()
        while True:
            if dagger:
                rounds.train(1, bc_train_kwargs=dict(quiet))
            else:
                until = rollout.make_sample_until(min_timesteps=line.task.grid)
                flat += rollout.generate_trajectories(model.policy, envs, until, rng, deterministic_policy=True)
                trainer.set_demonstrations(rollout.flatten_trajectories(flat))
                trainer.train(n_epochs=rounds.DEFAULT_N_EPOCHS, **quiet)
            done = meter.due(counter.steps) and meter.check(
                counter.steps, lambda obs: trainer.policy.predict(teacher.see(obs), deterministic=True)[0]
            )
            if done:
                return meter


def dagger(line: Line) -> Meter:
    return _imitation(line, True)


def bc(line: Line) -> Meter:
    return _imitation(line, False)


def rsl_rl(line: Line) -> Meter:
    """Distillation in its runner: defaults but 5 epochs of 24 steps (so that none is left over) and std 0.1.

    Its update empties a recurrent teacher's memory; here the teacher keeps it.
    """
    import torch
    from rsl_rl.runners import DistillationRunner
    from tensordict import TensorDict

    teacher, meter = rival(line)
    envs, counter = teacher.envs(line.copies, line.seed)
    seen = places_seen(line.task, envs.observation_space.shape[0])

    def views(obs):
        whole = torch.from_numpy(obs).float()
        return TensorDict({"policy": whole, "seen": whole[:, seen]}, batch_size=[len(obs)])

    class Adapter:
        num_envs, num_actions, device, cfg = line.copies, envs.action_space.shape[0], "cpu", {}
        max_episode_length = make_env(line.task).spec.max_episode_steps
        episode_length_buf = torch.zeros(line.copies, dtype=torch.long)
        obs = envs.reset()

        def get_observations(self):
            return views(self.obs)

        def step(self, actions):
            taken = actions.numpy().clip(envs.action_space.low, envs.action_space.high)
            self.obs, rewards, dones, _ = envs.step(taken)
            teacher.ended = dones
            return self.get_observations(), torch.from_numpy(rewards), torch.from_numpy(dones).float(), {}

    class Expert(torch.nn.Module):
        def __init__(self, *_args, **_settings) -> None:
            super().__init__()

        def forward(self, obs):
            return torch.from_numpy(teacher.next_actions(obs["policy"].numpy()))

        def reset(self, dones=None, hidden_state=None) -> None:
            pass

        def get_hidden_state(self) -> None:
            pass

    config = {
        "num_steps_per_env": 24, "save_interval": 10**9, "obs_groups": {"student": ["seen"], "teacher": ["policy"]},
        "student": {
            "class_name": "RNNModel" if line.task.cell else "MLPModel", "hidden_dims": list(line.task.hidden),
            "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.1},
            **({"rnn_type": "gru", "rnn_hidden_dim": line.task.their_cell} if line.task.cell else {}),
        },
        "teacher": {"class_name": Expert},
        "algorithm": {"class_name": "Distillation", "num_learning_epochs": 5, "learning_rate": line.learning_rate},
    }  # fmt: skip
    with contextlib.redirect_stdout(None):  # it prints its networks
        runner = DistillationRunner(Adapter(), config, log_dir=None, device="cpu")
    runner.alg.teacher_loaded = True

    class Student:
        """A copy, so that what is remembered while collecting stays."""

        def begin(self) -> None:
            self.policy = copy.deepcopy(runner.alg.get_policy())
            self.policy.reset()

        def __call__(self, obs):
            with torch.no_grad():
                return self.policy(views(teacher.see(obs))).numpy()

    meter.start()
    while True:
        runner.learn(-(-(meter.next - counter.steps) // (24 * line.copies)))
        if meter.check(counter.steps, Student()):
            return meter


def _from_reward(line: Line, maker, method: str) -> Meter:
    """No teacher: rl-zoo3's settings, network and budget."""
    from stable_baselines3.common.callbacks import BaseCallback

    teacher, meter = rival(line)
    envs, counter = teacher.envs(line.copies, line.seed)
    _, settings = SCRATCH[method][line.task.env]
    model = maker("MlpPolicy", envs, seed=line.seed, device="cpu", **settings)

    class Checks(BaseCallback):
        def _on_step(self) -> bool:
            if meter.due(counter.steps):
                meter.check(counter.steps, lambda obs: model.predict(obs, deterministic=True)[0])
            return not meter.over

    meter.start()
    model.learn(line.task.cap, callback=Checks())
    return meter


def dqn(line: Line) -> Meter:
    import stable_baselines3

    return _from_reward(line, stable_baselines3.DQN, "dqn")


def qrdqn(line: Line) -> Meter:
    import sb3_contrib

    return _from_reward(line, sb3_contrib.QRDQN, "qrdqn")


METHODS = {
    "ours": ours, "dagger": dagger, "bc": bc, "ppd": ppd, "student-distill": student_distill, "rsl-rl": rsl_rl,
    "dqn": dqn, "qrdqn": qrdqn,
}  # fmt: skip


# -- lines, queue


def lines(out: Path) -> list[dict]:
    return [json.loads(text) for text in out.read_text().splitlines() if text] if out.exists() else []


def key(row: dict) -> tuple:
    return row["method"], row["task"], row["seed"], row["rate"], row["n_envs"]


def run(args: argparse.Namespace) -> None:
    """One line, appended to the output unless it is there."""
    copies = args.copies or COPIES[args.method]
    wanted = {"method": args.method, "task": args.task, "seed": args.seed, "rate": args.rate, "n_envs": copies}
    if key(wanted) in {key(row) for row in lines(args.out)}:
        return
    if not supports(args.method, args.task):
        sys.exit(f"{args.method} has no use for the teacher or the actions of {args.task}.")
    import torch  # which takes seconds that a line that is there does not need

    torch.set_num_threads(1)
    task = TASKS[args.task]
    cap = SCRATCH[args.method][task.env][0] if args.method in SCRATCH else task.cap
    task = task._replace(cap=args.steps or cap, grid=args.every or task.grid)
    rate = RATES[args.method] * args.rate if args.method in RATES else None
    print(f"{args.method} {args.task} seed {args.seed} rate {args.rate:g}", flush=True)
    started = time.perf_counter()
    cache = args.out.with_suffix(".baselines.json")
    meter = METHODS[args.method](Line(task, args.seed, rate, copies, args.teachers, cache))
    about = {
        "env": env_id(task),
        "episodes": task.episodes,
        "learning_rate": rate,
        "processor": processor(),
        "wall_s": time.perf_counter() - started,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as file:
        print(json.dumps(wanted | about | meter.row()), file=file)


PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "stable-baselines3", "sb3-contrib", "imitation", "rsl-rl-lib")


def about(args: argparse.Namespace) -> None:
    """Versions here, and what each teacher does in 8 states, so that a queue can see that all have the same."""
    import numpy as np

    there = reversed(list(metadata.distributions()))  # of two on the path the first is imported
    found = {dist.metadata["Name"].lower().replace("_", "-"): dist.version for dist in there}
    actions = {}
    for name in args.tasks:
        task = TASKS[name]._replace(history=1)
        obs = np.random.default_rng(0).normal(size=(8, *make_env(task).observation_space.shape)).astype(np.float32)
        act = OurPolicy(our_teacher(task, args.teachers).policy) if args.ours else Teacher(task, args.teachers)
        actions[name] = np.asarray(act(obs), np.float64).round(6).reshape(8, -1).tolist()
    versions = {name: found[name] for name in PACKAGES if name in found}
    print(json.dumps({"python": platform.python_version(), "versions": versions, "actions": actions}))


def processor() -> str:
    """As distilrl.provenance has it, which rivals could not import."""
    cpu = Path("/proc/cpuinfo")
    models = [text.split(":")[1].strip() for text in cpu.read_text().splitlines() if "model name" in text]
    return models[0] if models else platform.processor()


def machine(args: argparse.Namespace, pythons: dict[str, str], environments: dict[str, dict]) -> None:
    """Writes machine.json beside the output, whose machine is the first queue's (each line names its own processor);
    ends the program where teachers differ.
    """
    import numpy as np

    path = args.out.parent / "machine.json"
    data = {"platform": platform.platform(), "cpu": processor(), "cores": os.cpu_count(), "environments": {}}
    data |= json.loads(path.read_text()) if path.exists() else {}
    first = None
    for name, python in pythons.items():
        command = [python, __file__, "about", "--teachers", str(args.teachers), "--tasks", *args.tasks]
        command += ["--ours"] if name == "ours" else []
        text = subprocess.run(command, env=environments[name], check=True, capture_output=True, text=True).stdout
        told = json.loads(text.splitlines()[-1])
        actions = told.pop("actions")
        first = first or actions
        gap = {task: float(np.abs(np.subtract(actions[task], first[task])).max()) for task in args.tasks}
        print(name, told["versions"], "largest difference of teachers' actions:", gap, flush=True)
        if max(gap.values()) > 1e-4:
            sys.exit(f"The teachers act otherwise in the environment '{name}' than in '{next(iter(pythons))}'.")
        data["environments"][name] = told
    args.out.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")


def queue(args: argparse.Namespace) -> None:
    """All lines that are missing, a seed after the other, each in its own process."""
    pythons = dict(text.split("=", 1) for text in args.python)
    root = Path(__file__).parent.parent
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    paths = {"ours": f"{root}{os.pathsep}{root / 'src'}", "sb3_distill": f"{root}{os.pathsep}{args.sb3_distill}"}
    environments = {name: os.environ | one | {"PYTHONPATH": paths.get(name, str(root))} for name in pythons}
    machine(args, pythons, environments)
    methods = [name for name in args.methods if INTERPRETER[name] in pythons]
    wanted = [
        (method, task, seed, rate)
        for rate in args.rates for seed in args.seeds for task in args.tasks for method in methods
        if supports(method, task) and (rate == 1 or method in RATES)
    ]  # fmt: skip
    for method, task, seed, rate in wanted:
        name = INTERPRETER[method]
        command = [pythons[name], __file__, method, "--task", task, "--seed", str(seed), "--rate", str(rate)]
        command += ["--teachers", str(args.teachers), "--out", str(args.out)]
        for option in ("copies", "steps", "every"):
            command += [f"--{option}", str(value)] if (value := getattr(args, option)) else []
        code = subprocess.run(command, env=environments[name], check=False).returncode
        if code:
            print(f"FAILED ({code}): {' '.join(command)}", flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("method", choices=[*METHODS, "queue", "about"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peers" / "lines.jsonl")
    parser.add_argument("--teachers", type=Path, help="folder of the teachers")
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.0, help="multiple of the default learning rate")
    parser.add_argument("--copies", type=int, help="environments that step together")
    parser.add_argument("--steps", type=int, help="another cap, for a trial")
    parser.add_argument("--every", type=int, help="another grid, for a trial")
    parser.add_argument("--ours", action="store_true", help="about: read the teachers with this project")
    parser.add_argument(
        "--python", action="append", default=[], help="queue: ours, sb3_distill, imitation or rsl_rl=interpreter"
    )
    parser.add_argument("--sb3-distill", default="", help="queue: folder of a checkout of sb3_distill")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[t for t in TASKS if t not in MEMORY])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0])
    return parser.parse_args(argv)


if __name__ == "__main__":
    arguments = parse(sys.argv[1:])
    os.environ.setdefault("UNITREE_MODELS", str(arguments.teachers))
    {"queue": queue, "about": about}.get(arguments.method, run)(arguments)
