"""Trains teachers whose actions are real numbers, by stable-baselines3's SAC.

    python -m examples.driving.train_sac racetrack --steps 16000 --out runs/racetrack-teacher
    python -m examples.driving.train_sac intersection --steps 20000 --out runs/steering-teacher

What acts of it is written as distilrl reads it: SAC's own file is five times as large, by its critics and optimisers.
"""

import argparse
import tempfile
import time
from typing import Any, cast

import gymnasium
import highway_env  # noqa: F401  (registers the environments)
import torch
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor

from distilrl import EnvRef, Measure, Play, Teacher, describe_env, evaluate_policy, load_teacher
from distilrl.checkpoints import save_network
from distilrl.networks import Network

FLAT = "gymnasium.wrappers:FlattenObservation"
ENVS = {
    "racetrack": EnvRef("highway_env:racetrack-v1", {"config": {"duration": 30}}, wrappers=(FLAT,)),
    "intersection": EnvRef(
        "highway_env:intersection-v1", {"config": {"simulation_frequency": 5, "policy_frequency": 5}}
    ),
}
"""The racetrack is two grids of 12 x 12 cells as 288 numbers. Highway-env's own episodes last five minutes there,
1,500 steps, and what goes wrong does so in the first. The intersection, where highway-env asks once a second, is
steered five times a second too.
"""
CRASHED, EPISODES = (Measure("crashed", "max"),), 30


def train(ref: EnvRef, steps: int, seed: int) -> Any:
    """The trained SAC."""
    env = Monitor(FlattenObservation(gymnasium.make(ref.id, **ref.kwargs)))
    # what lies two seconds ahead decides: a short horizon is learnt sooner
    model = SAC(
        "MlpPolicy",
        env,
        gamma=0.95,
        learning_rate=1e-3,
        learning_starts=1_000,
        batch_size=256,
        policy_kwargs={"net_arch": [128, 128]},
        seed=seed,
        verbose=1,
    )
    return model.learn(steps, log_interval=20)


def save(model: Any, ref: EnvRef, out: str, **told: Any) -> None:
    """Writes what acts of the model, as distilrl reads SAC's own file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/sac.zip")
        teacher = load_teacher(f"{folder}/sac.zip").fitted(describe_env(ref))
    network = cast("Network", teacher.network)  # dense layers, and nothing before them
    save_network(out, network, teacher.head, name="teacher", env=ref.label, environment=ref.to_json(), **told)


def judge(out: str, ref: EnvRef) -> None:
    """Prints what the teacher makes, and what who leaves wheel and pedals alone makes of the same episodes."""
    info = describe_env(ref)
    idle = Teacher.from_callable(lambda obs: obs.new_zeros(len(obs), info.action.size), kind="mean", name="idle")
    for name, one in (("teacher", load_teacher(out)), ("straight on", idle)):
        found = evaluate_policy(one, Play(ref, measures=CRASHED), episodes=EPISODES)
        crashed = found.measures["crashed (max)"]
        print(f"{name}: return {found.in_words()}, crashed {crashed.in_words() if crashed is not None else '-'}")


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description="A teacher that steers, by SAC.")
    parser.add_argument("env", choices=ENVS)
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    ref = ENVS[given.env]
    model = train(ref, given.steps, given.seed)
    save(model, ref, given.out, recipe="sac of stable-baselines3", steps=given.steps, seed=given.seed)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")
    judge(given.out, ref)


if __name__ == "__main__":
    main()
