"""Makes the moving pictures of the README: python benchmarks/pictures.py."""

from pathlib import Path

from distilrl import Policy, describe_env, load_network, load_teacher
from distilrl.animate import side_by_side

PONG = "PongNoFrameskip-v4"


def main() -> None:
    teacher = load_teacher("zoo/pong-dqn").fitted(describe_env(PONG))
    student = load_network("benchmarks/results/pong-2k-pruned/student")
    players = {
        f"teacher, {teacher.params:,} parameters": teacher.policy,
        f"student, {student.network.spec.params:,} parameters": Policy(student.network, student.head),
    }
    Path("docs/pictures/pong.webp").write_bytes(side_by_side(players, PONG, steps=600))


if __name__ == "__main__":
    main()
