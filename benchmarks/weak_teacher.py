"""Students of a deliberately weakened teacher: does learning from reward too take them beyond it?

    python benchmarks/weak_teacher.py FILE      # cartpole-dqn-sb3.zip of rl-trained-agents

Gaussian noise is added to the teacher's weights until its greedy return on CartPole-v1 lies between 100 and 300; then
each recipe trains mlp:16,16 over three seeds with the same budget, 30,000 steps, to its end.
"""

import sys

import torch
from lines import RESULTS

from distilrl import EnvRef, Play, Teacher, __version__, describe_env, evaluate_policy, load_teacher, make_config, train
from distilrl.acceptance import accept
from distilrl.files import write_json

ENV, SEEDS = "CartPole-v1", range(3)
HOW = Play(EnvRef(ENV), threads=1)
RECIPES = ("distil", "qdagger", "kickstarting", "finetune", "dqfd", "dqn")


def weakened(path: str) -> tuple[Teacher, float, float]:
    for tenth in range(1, 60):
        teacher = load_teacher(path).fitted(describe_env(ENV))
        generator = torch.Generator().manual_seed(tenth)
        with torch.no_grad():
            for parameter in teacher.network.parameters():
                parameter.add_(0.01 * tenth * torch.randn(parameter.shape, generator=generator))
        mean = evaluate_policy(teacher, HOW, episodes=50).return_mean
        if 100 <= mean <= 300:
            return teacher, 0.01 * tenth, mean
    raise SystemExit("no such noise was found")


def main() -> None:
    torch.set_num_threads(1)
    teacher, noise, mean = weakened(sys.argv[1])
    print(f"noise {noise:.2f}: return {mean:.1f}", flush=True)
    acceptance = accept(teacher, HOW, episodes=50)
    rows = []
    for recipe in RECIPES:
        for seed in SEEDS:
            config = make_config(recipe, ENV, network="mlp:16,16", seed=seed, env_steps=30_000, check_every=2_000)
            config = config.but(patience=999, at_return=None)
            trained = train(config, teacher if recipe != "dqn" else None, acceptance=acceptance)
            result = evaluate_policy(trained.policy, HOW, episodes=100)
            rows.append(
                {
                    "recipe": recipe,
                    "seed": seed,
                    "return_mean": result.return_mean,
                    "return_ci95": result.return_ci95,
                    "train_s": trained.train_s,
                }
            )
            print(recipe, seed, f"{result.return_mean:.1f}", f"{trained.train_s:.1f} s", flush=True)
            facts = {
                "distilrl": __version__,
                "torch": torch.__version__,
                "env": ENV,
                "noise": noise,
                "teacher": acceptance.to_json(),
                "rows": rows,
            }
            write_json(RESULTS / "weak-teacher.json", facts)


if __name__ == "__main__":
    main()
