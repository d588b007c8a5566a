"""Many students from one stream, and the smallest that passes."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import SIGN, sign_network
from test_train import small

from distilrl.checkpoints import load_network, save_network
from distilrl.cli import main
from distilrl.distill import Job, evaluate_policy
from distilrl.errors import FileError, SpecError
from distilrl.evaluate import Comparison
from distilrl.losses import forward_kl
from distilrl.networks import Network, build
from distilrl.plan import Budget, plan
from distilrl.population import Population, StackedMLP
from distilrl.specs import NetworkSpec

SPECS = [NetworkSpec((2,), 2, hidden=h) for h in ((), (3,), (8,), (4, 5), (2, 9))]
PIXELS = [NetworkSpec((4, 84, 84), 6, convs=((c, 8, 4), (c, 4, 2)), hidden=(8,)) for c in (2, 3)]


def job(**changes):
    config = small(**({"env_steps": 1600} | changes))
    return Job(replace(config, check_episodes=5), Comparison(20, 40, 0))


def test_a_stack_answers_as_its_members_do():
    networks = [
        build(NetworkSpec((3,), 4, hidden=h, activation="tanh"), torch.Generator().manual_seed(i)) for i, h in enumerate(((2, 7), (5, 3)))
    ]
    stack, obs = StackedMLP(networks), torch.randn(6, 3)
    torch.testing.assert_close(stack(obs), torch.stack([n(obs) for n in networks]))
    for k, network in enumerate(networks):
        torch.testing.assert_close(stack.network(k)(obs), network(obs))
    stack.keep([1])
    torch.testing.assert_close(stack(obs)[0], networks[1](obs))


def test_a_population_learns_as_each_student_would_alone():
    """Padding gets no gradient, and nobody's step depends on who else is there."""
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(32, 2, generator=generator), torch.randn(32, 2, generator=generator) * 3) for _ in range(30)]
    together = Population(SPECS, range(5), learning_rate=1e-2, average=0.9)
    for obs, teacher in batches:
        kl = together.update(obs, teacher, 0.0)
    assert kl.shape == (5,)
    for k, spec in enumerate(SPECS):
        alone = Population([spec], [k], learning_rate=1e-2, average=0.9)
        for obs, teacher in batches:
            alone.update(obs, teacher, 0.0)
        obs = torch.randn(10, 2)
        torch.testing.assert_close(together.network(k)(obs), alone.network(0)(obs), rtol=1e-4, atol=1e-5)
        assert sum(p.numel() for p in together.network(k).parameters()) == spec.params
    with torch.no_grad():
        final = [forward_kl(student=together.network(k)(batches[-1][0]), teacher=batches[-1][1]).mean() for k in range(5)]
    assert max(final) < 3.0


def test_who_acts_and_who_stays():
    population = Population(SPECS, range(5), learning_rate=1e-2, average=0.0)
    obs = torch.randn(12, 2)
    expected = torch.stack([population.network(n % 5)(obs[n : n + 1])[0] for n in range(12)])
    torch.testing.assert_close(population.act(obs), expected)
    before = {k: population.network(k)(obs) for k in (1, 4)}
    population.keep([1, 4])
    assert population.alive == [1, 4]
    for k, values in before.items():
        torch.testing.assert_close(population.network(k)(obs), values)
    torch.testing.assert_close(population.act(obs)[1], before[4][1])
    with pytest.raises(KeyError):
        population.network(0)


def test_convolutional_students_share_the_stream():
    population = Population(PIXELS, range(2), learning_rate=1e-3, average=0.5)
    population.standardise(torch.tensor([20.0]), torch.tensor([0.02]))
    obs = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    first = population.update(obs, torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), 0.0)
    for _ in range(20):
        last = population.update(obs, torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), 0.0)
    assert (last < first).all()
    assert population.act(obs).shape == (8, 6)
    assert isinstance(population.network(1), Network)


def test_the_smallest_that_passes_is_found(sign_teacher, tmp_path):
    result = plan(sign_teacher, job(env_steps=6400), tmp_path / "plan", sizes=["mlp:16", "mlp:", "mlp:4"], seeds=2)
    assert [row["student"] for row in result["frontier"]] == ["mlp:", "mlp:4", "mlp:16"]
    assert result["winner"] == "mlp:"  # the sign of a number is a linear matter
    winner = tmp_path / "plan" / "winner"
    assert evaluate_policy(load_network(winner / "student").network, SIGN, episodes=20)["return_mean"] > 9.5
    assert json.loads((winner / "results.json").read_text())["verdict"]["result"] == "pass"
    assert main(["report", str(winner)]) == main(["report", str(tmp_path / "plan")]) == 0
    assert "The smallest student that passes is mlp:" in (tmp_path / "plan" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(FileError, match="already holds a plan"):
        plan(sign_teacher, job(), tmp_path / "plan")


def test_budgets_leave_sizes_out(sign_teacher, tmp_path):
    result = plan(sign_teacher, job(), tmp_path / "plan", sizes=["mlp:4", "mlp:64"], seeds=1, budget=Budget(params=100), refine=False)
    assert [row["student"] for row in result["frontier"]] == ["mlp:4"]
    for budget in (Budget(bytes=10), Budget(macs=1), Budget(us=0.0001)):
        with pytest.raises(SpecError, match="No size fits"):
            plan(sign_teacher, job(), tmp_path / "none", sizes=["mlp:4"], seeds=1, budget=budget)
    assert not (tmp_path / "none").exists()


def test_a_plan_without_a_winner_says_so(tmp_path, capsys):
    save_network(tmp_path / "teacher", sign_network(), name="teacher")
    command = [
        "plan",
        "--teacher",
        str(tmp_path / "teacher"),
        "--env",
        SIGN,
        "--out",
        str(tmp_path / "plan"),
        "--sizes",
        "mlp:1",
        "--steps",
        "810",
    ]
    assert main([*command, "--seeds", "1", "--episodes", "20", "--margin", "0.0001", "--threads", "1"]) == 1
    assert "smallest that passes: none" in capsys.readouterr().err
    assert not (tmp_path / "plan" / "winner" / "student").exists()
