"""Real actions: students of public teachers, the smallest by plan, what weights and losses do; can be continued.

    python benchmarks/continuous.py TEACHERS rows [NAME ...]     # the table of students, five seeds each
    python benchmarks/continuous.py TEACHERS losses [NAME ...]   # what a loss sees of a real action
    python benchmarks/continuous.py TEACHERS stakes [NAME ...]   # states weighted by the critic, or not
    python benchmarks/continuous.py TEACHERS critics [NAME ...]  # how much of a value is at stake in one action
    python benchmarks/continuous.py TEACHERS plans [NAME ...]    # the smallest student that passes

TEACHERS is a folder with zips (and VecNormalize pickles) of the public rl-trained-agents collection. Each run appends
one line to benchmarks/results/continuous/KIND.jsonl; a line that is there is not made again, so the queue goes on where
it stopped, and `--jobs N` makes N at a time. A run that was killed goes on from its checkpoint, in benchmarks/runs. Run
it alone on the machine: seconds made beside other work are not for tables, nor are those of a run that was killed.
"""

import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lines import RESULTS, fill, jobs_of, machine

import distilrl
from distilrl import Comparison, EnvRef, Job, TeacherFile, distill, make_config, plan, term
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.evaluate import play, seeds_from
from distilrl.plain import to_plain
from distilrl.played import Returns
from distilrl.teachers import load_teacher

OUT = RESULTS / "continuous"
RUNS = Path(__file__).parent / "runs" / "continuous"
ANT = EnvRef("Ant-v5", {"include_cfrc_ext_in_observation": False})
"""Without the contact forces, which Ant-v3 gave as 84 zeros and its teacher therefore reads as such."""


@dataclass(frozen=True)
class Run:
    """A student of a teacher."""

    env: str | EnvRef
    teacher: str
    network: str
    changes: dict[str, Any] = field(default_factory=dict)
    reward_steps: int = 0


CHEETAH, HOPPER, WALKER = (
    ("HalfCheetah-v5", "tqc-HalfCheetah-v3"),
    ("Hopper-v5", "trpo-Hopper-v3"),
    ("Walker2d-v5", "tqc-Walker2d-v3"),
)
LONG = {"env_steps": 400_000, "capacity": 200_000, "check_every": 20_000, "stakes_exponent": 1.0}
SHORT = {"env_steps": 50_000, "check_every": 5_000}
LANDER, SWIMMER, CAR, PENDULUM, BIPEDAL = (
    ("LunarLanderContinuous-v3", "ppo-LunarLanderContinuous-v2"),
    ("Swimmer-v5", "ars-Swimmer-v3"),
    ("MountainCarContinuous-v0", "sac-MountainCarContinuous-v0"),
    ("Pendulum-v1", "sac-Pendulum-v1"),
    ("BipedalWalker-v3", "a2c-BipedalWalker-v3"),
)
ROWS = {
    "cheetah-1782": Run(*CHEETAH, "mlp:24,24,24@silu", LONG),
    "cheetah-1968": Run(*CHEETAH, "mlp:26,26,24@silu", LONG),
    "cheetah-5702": Run(*CHEETAH, "mlp:64,64"),
    "cheetah-5702-proportion": Run(*CHEETAH, "mlp:64,64", {"stakes_exponent": 1.0}),
    "lander-18": Run(*LANDER, "mlp:", SHORT),
    "swimmer-18": Run(*SWIMMER, "mlp:", SHORT),
    "car-17": Run(*CAR, "mlp:4@relu", SHORT),
    "car-17-proportion": Run(*CAR, "mlp:4@relu", SHORT | {"stakes_exponent": 1.0}),
    "pendulum-81": Run(*PENDULUM, "mlp:16@relu", SHORT),
    "pendulum-81-proportion": Run(*PENDULUM, "mlp:16@relu", SHORT | {"stakes_exponent": 1.0}),
    "bipedal-91": Run(*BIPEDAL, "mlp:3", SHORT),
    "bipedal-91-reward": Run(*BIPEDAL, "mlp:3", SHORT, reward_steps=1_000_000),
    "bipedal-120": Run(*BIPEDAL, "mlp:4", SHORT),
    "hopper-135": Run(*HOPPER, "mlp:6,6", SHORT),
    "hopper-195": Run(*HOPPER, "mlp:8,8", SHORT),
    "hopper-195-reward": Run(*HOPPER, "mlp:8,8", SHORT, reward_steps=1_000_000),
    "walker-662": Run(*WALKER, "mlp:16,16", {"env_steps": 100_000}),
    "walker-662-proportion": Run(*WALKER, "mlp:16,16", {"env_steps": 100_000, "stakes_exponent": 1.0}),
    "ant-1472": Run(ANT, "trpo-Ant-v3", "mlp:24,24", {"env_steps": 100_000}),
    "hopper-linear": Run(*HOPPER, "mlp:", SHORT, reward_steps=1_000_000),
    "bipedal-linear": Run(*BIPEDAL, "mlp:", SHORT, reward_steps=1_000_000),
}


def teacher_file(folder: Path, name: str) -> TeacherFile:
    """The zip, and the normaliser beside it."""
    normalizer = folder / f"{name}.vecnormalize.pkl"
    zeros = 84 if "Ant-v3" in name else 0
    return TeacherFile(
        str(folder / f"{name}.zip"), normalizer=str(normalizer) if normalizer.exists() else None, zeros=zeros
    )


def config_of(run: Run, folder: Path, seed: int, **changes: Any) -> distilrl.TrainConfig:
    """The recipe's own settings but for what the row says."""
    config = make_config(
        "distil",
        run.env,
        teacher=teacher_file(folder, run.teacher),
        network=run.network,
        seed=seed,
        threads=1,
        **(run.changes | changes),
    )
    return config.but(reward=distilrl.RewardConfig(env_steps=run.reward_steps)) if run.reward_steps else config


def result(out: Path, config: distilrl.TrainConfig, episodes: int = 100, most: int = 300) -> dict[str, Any]:
    """Distils, in a folder that is gone when its results are known, and what a table needs of them."""
    started, cpu = time.perf_counter(), time.process_time()
    job, begun = Job(config, Comparison(episodes, most, disturbed_episodes=0)), (out / "config.json").is_file()
    results = distill(None, job, out, resume=begun)
    shutil.rmtree(out)
    student, teacher = results.student, results.teacher

    def kept(side: Returns) -> dict[str, Any]:
        return {"return_mean": side.return_mean, "return_ci95": side.return_ci95, "episodes": side.episodes}

    return {
        "params": student.params, "student": kept(student) | {"score": student.score},
        "teacher": kept(teacher) | {"params": teacher.params}, "random": results.random.return_mean,
        "verdict": to_plain(results.verdict), "error": results.agreement.student_states_error,
        "env_steps": results.env_steps,
        "updates": results.updates, "stopped": results.stopped, "train_s": results.train_s,
        "wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
    }  # fmt: skip


def row_line(folder: Path, row: str, seed: int) -> dict[str, Any]:
    run = ROWS[row]
    return {"network": run.network} | result(RUNS / f"{row}, {seed}", config_of(run, folder, seed))


def rows(folder: Path, names: list[str], jobs: int, seeds: int = 5) -> None:
    """The table of students."""
    keys = [{"row": name, "seed": seed} for seed in range(seeds) for name in names or ROWS]
    fill(OUT / "rows.jsonl", partial(row_line, folder), keys, jobs)


LOSSES = ("action_regression", "mean_regression", "clipped_regression", "forward_kl")


def loss_line(folder: Path, row: str, loss: str, seed: int) -> dict[str, Any]:
    env, teacher, network = (*CHEETAH, "mlp:16,16") if row == "cheetah" else (*HOPPER, "mlp:8,8")
    both = (term("forward_kl"), term("worst_action_gap", weight=0.1))
    terms = both if loss == "case_study" else (term(loss),)
    config = config_of(Run(env, teacher, network), folder, seed, terms=terms, env_steps=50_000)
    return result(RUNS / f"{row}, {loss}, {seed}", config, 50, 50)


def losses(folder: Path, names: list[str], jobs: int, seeds: int = 3) -> None:
    """What a loss sees of a real action: one squashed and one clipped policy, at sizes where it hurts."""
    keys = [
        {"row": name, "loss": loss, "seed": seed}
        for seed in range(seeds) for name in names or ("hopper", "cheetah") for loss in (*LOSSES, "case_study")
    ]  # fmt: skip
    fill(OUT / "losses.jsonl", partial(loss_line, folder), keys, jobs)


STAKES = {
    "cheetah": Run(*CHEETAH, "mlp:16,16@relu"), "walker": Run(*WALKER, "mlp:16,16@relu"),
    "pendulum": Run(*PENDULUM, "mlp:6@relu"),
}  # fmt: skip


def stakes_line(folder: Path, row: str, exponent: float, seed: int) -> dict[str, Any]:
    steps = 10_000 if row == "pendulum" else 50_000
    config = config_of(STAKES[row], folder, seed, stakes_exponent=exponent, env_steps=steps)
    return result(RUNS / f"{row}, {exponent}, {seed}", config, 50, 50)


def stakes(folder: Path, names: list[str], jobs: int, seeds: int = 5) -> None:
    """States weighted by the critic, or not, at sizes where it hurts."""
    keys = [
        {"row": name, "exponent": exponent, "seed": seed}
        for seed in range(seeds) for name in names or STAKES for exponent in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    fill(OUT / "stakes.jsonl", partial(stakes_line, folder), keys, jobs)


CRITICS = {"cheetah": CHEETAH, "walker": WALKER, "pendulum": PENDULUM}


def critic_line(folder: Path, row: str) -> dict[str, Any]:
    env, teacher_name = CRITICS[row]
    teacher = load_teacher(teacher_file(folder, teacher_name)).fitted(describe_env(env))
    games = play(teacher.policy, Play(EnvRef(env), threads=1, keep_states=2_000), seeds_from(0, 10))
    states = torch.as_tensor(games.states)
    numbers = teacher.numbers(states)
    at_stake = teacher.stakes(states, numbers)
    with torch.no_grad():
        values = teacher.critic(states, teacher.head.view(numbers).clamp(-1, 1))
    share = float(at_stake.median() / values.abs().median())
    weights = at_stake.sqrt()
    spread = float(weights.sum() ** 2 / weights.square().sum() / len(weights))
    return {
        "stakes_median": float(at_stake.median()), "value_median": float(values.median()), "share": share,
        "worth_nothing": float((at_stake <= 1e-6).float().mean()), "effective_sample": spread,
    }  # fmt: skip


def critics(folder: Path, names: list[str], jobs: int) -> None:
    """How much of its value a teacher's critic sees at stake in one action, in 2,000 states of its own episodes."""
    fill(OUT / "critics.jsonl", partial(critic_line, folder), [{"row": name} for name in names or CRITICS], jobs)


LONGER = {"env_steps": 100_000}
PLANS = {
    "lander": Run(*LANDER, "mlp:", SHORT), "swimmer": Run(*SWIMMER, "mlp:", SHORT), "car": Run(*CAR, "mlp:", SHORT),
    "pendulum": Run(*PENDULUM, "mlp:", SHORT), "walker": Run(*WALKER, "mlp:", LONGER),
    "ant": Run(ANT, "trpo-Ant-v3", "mlp:", LONGER),
    "bipedal": Run(*BIPEDAL, "mlp:", SHORT), "hopper": Run(*HOPPER, "mlp:", SHORT),
}  # fmt: skip


def plan_line(folder: Path, row: str) -> dict[str, Any]:
    config = config_of(PLANS[row], folder, 0)
    out = RUNS / f"plan of {row}"
    found = plan(None, Job(config, Comparison(100, 300, 0)), out, seeds=3, resume=(out / "config.json").is_file())
    shutil.rmtree(out)
    return found.to_json()


def plans(folder: Path, names: list[str], jobs: int) -> None:
    """The smallest student that passes, the linear one in its ladder; steps of all sizes together as of one student."""
    fill(OUT / "plans.jsonl", partial(plan_line, folder), [{"row": name} for name in names or PLANS], jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    machine(OUT, "mujoco")
    jobs = jobs_of(sys.argv)
    teachers, kind, *chosen = Path(sys.argv[1]), *sys.argv[2:]
    {"rows": rows, "losses": losses, "stakes": stakes, "critics": critics, "plans": plans}[kind](teachers, chosen, jobs)
