"""Draws from blocks are those of one cumulative sum over everything, whatever changed since."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilrl.draws import BLOCK, Draws


def plainly(allowed, weights, count, generator):
    """Draws as they are defined, (count,) uniform and weighted, and the probabilities of the latter (rows · N,)."""
    flat, mass = allowed.flatten().double(), (weights * allowed).flatten()
    chances = 0.8 * mass / mass.sum().clamp_min(1e-300) + 0.2 * flat / flat.sum()
    start = generator.get_state()
    places = flat.nonzero().flatten()
    uniform = places[(torch.rand(count, generator=generator, dtype=torch.float64) * len(places)).long()]
    generator.set_state(start)
    ends = chances.cumsum(0)
    point = torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1]
    return uniform, torch.searchsorted(ends, point, right=True), chances


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 90), n_envs=st.integers(1, 70), seed=st.integers(0, 2**31), share=st.floats(0.02, 1.0))
def test_draws_are_those_of_one_sum_over_everything(rows, n_envs, seed, share):
    rng = torch.Generator().manual_seed(seed)
    draws = Draws(rows, n_envs)
    allowed = torch.zeros(rows, n_envs, dtype=torch.bool)
    weights = torch.zeros(rows, n_envs, dtype=torch.float64)
    for _ in range(3):  # each time something else has changed
        for row in torch.randperm(rows, generator=rng)[: max(1, rows // 2)].tolist():
            allowed[row] = torch.rand(n_envs, generator=rng) < share
            weights[row] = torch.rand(n_envs, generator=rng, dtype=torch.float64) ** 4
            draws.allow(row, allowed[row])
            draws.weigh(row, weights[row])
        single = torch.randint(rows * n_envs, (5,), generator=rng).unique()
        weights.view(-1)[single] = 2.0
        draws.weigh_each(single, torch.full((len(single),), 2.0, dtype=torch.float64))
        assert len(draws) == int(allowed.sum())
        if not len(draws):
            continue
        uniform, weighted, chances = plainly(allowed, weights, 200, torch.Generator().manual_seed(seed))
        assert torch.equal(draws.uniform(200, torch.Generator().manual_seed(seed)), uniform)
        drawn = draws.weighted(200, torch.Generator().manual_seed(seed))
        assert allowed.view(-1)[drawn].all()
        assert torch.equal(drawn, weighted)
        torch.testing.assert_close(draws.probabilities(drawn), chances[drawn], rtol=1e-12, atol=0)


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53])
def test_the_ends_of_what_can_be_drawn_are_states_that_may_be(monkeypatch, extreme):
    draws = Draws(3 * BLOCK, 1)
    for row in (5, 100):  # neither at the end of its block, and a whole block behind them
        draws.allow(row, which=True)
        draws.weigh(row, 0.1)
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.full((count,), extreme, dtype=torch.float64))
    expected = 5 if extreme == 0.0 else 100
    assert draws.weighted(4, torch.Generator()).tolist() == [expected] * 4
    assert draws.uniform(4, torch.Generator()).tolist() == [expected] * 4


def test_weights_of_nothing_are_uniform():
    draws = Draws(10, 2)
    draws.allow(3, which=True)
    draws.weigh_all(torch.zeros(10, 2, dtype=torch.float64))
    assert set(draws.weighted(50, torch.Generator().manual_seed(0)).tolist()) == {6, 7}
    assert draws.probabilities(torch.tensor([6])).item() == pytest.approx(0.1)
