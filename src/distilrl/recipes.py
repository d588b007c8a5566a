"""Recipes: named methods, each a function that returns a complete, serialisable `TrainConfig`.

A recipe sets what the method is (terms, behaviour, sampling) and what suits the kind of environment (pixels or vectors).
"""

from collections.abc import Callable
from dataclasses import replace

from distilrl.collect import Behaviour
from distilrl.config import TrainConfig
from distilrl.errors import SpecError
from distilrl.objective import Schedule, Term


def distil(*, pixels: bool) -> TrainConfig:
    """The best known way, and the default: sharpened KL on mixed data, drawn where the teacher's choice matters.

    KL of Rusu et al. 2016, its temperature found from the teacher's entropy; states drawn by value gap (VIPER, Bastani
    et al. 2018); half of the environments driven by the student, with vectors soon all (DAgger, Ross et al. 2011); standardised inputs; the
    shipped weights are an average over training (Polyak & Juditsky 1992).
    """
    shared = TrainConfig(recipe="distil", terms=(Term("forward_kl"),), gap_exponent=0.5, average=0.99)
    return _for_pixels(shared) if pixels else _for_vectors(shared)


def policy_distillation(*, pixels: bool) -> TrainConfig:
    """Rusu et al. 2016 as printed: teacher-driven data at epsilon 0.05, KL with τ = 0.01 on the teacher only."""
    config = replace(
        distil(pixels=pixels),
        recipe="policy_distillation",
        terms=(Term("forward_kl", teacher_temperature=0.01),),
        behaviour=Behaviour("teacher", greedy_share=0.0),
        gap_exponent=0.0,
        average=0.0,
    )
    return replace(config, learning_rate=1e-3)


def case_study(*, pixels: bool) -> TrainConfig:
    """L_KD = L_KL + L_adv: KL plus the worst-action gap, both on values divided by one temperature τ.

    The printed form takes logarithms of Q-values, which may be negative; here p = softmax(Q/τ), p_s = softmax(Q_s/τ) and
    L_adv = max_a ((Q − Q_s)/τ)² of centred values. The student is trained on the scale of Q/τ and its head is
    multiplied by τ when it ships, so that its outputs are action values of the teacher's scale.
    """
    terms = (Term("forward_kl"), Term("worst_action_gap", weight=Schedule(0.1)))
    return replace(distil(pixels=pixels), recipe="case_study", terms=terms, scale_head=True)


def dqn(*, pixels: bool) -> TrainConfig:
    """Double DQN with n-step returns (Mnih et al. 2015; van Hasselt et al. 2016): the same loop with the TD term alone.

    For vectors n = 8 and standardised inputs were found on CartPole, where n = 3 learnt for longer than its budget.
    """
    config = TrainConfig(
        recipe="dqn",
        terms=(Term("double_td"),),
        behaviour=Behaviour("student", epsilon=Schedule(1.0, 0.05, 0.2), greedy_share=0.0),
        n_step=8,
        env_steps=60_000,
        n_envs=8,
        updates=4,
        batch_size=128,
        learning_rate=1e-3,
        learning_starts=2_000,
        target_every=100,
        average=0.99,
        check_every=2_000,
        threads=1,
    )
    if not pixels:
        return config
    return replace(
        config,
        n_step=3, env_steps=5_000_000, n_envs=64, updates=8, batch_size=256, learning_rate=2.5e-4, learning_starts=20_000,
        target_every=500, capacity=400_000, check_every=100_000, check_episodes=8, threads=2,
    )  # fmt: skip


def _for_vectors(config: TrainConfig) -> TrainConfig:
    """What tiny students of CartPole and Acrobot asked for: a sharper teacher, a higher learning rate, a longer average, data
    that becomes the student's own; drawing by the value gap did not help them.
    """
    behaviour = replace(config.behaviour, beta=Schedule(0.5, 0.0, 0.3))
    return replace(
        config, learning_rate=5e-3, entropy_share=0.15, average=0.995, gap_exponent=0.0, learning_starts=800, behaviour=behaviour, threads=1
    )


def _for_pixels(config: TrainConfig) -> TrainConfig:
    """Sizes for Atari: many environments, small batches, frequent updates."""
    return replace(
        config,
        env_steps=96_000, n_envs=64, updates=8, batch_size=64, learning_rate=3e-3, learning_starts=1_280,
        capacity=100_000, check_every=9_600, check_episodes=8, threads=2,
    )  # fmt: skip


RECIPES: dict[str, Callable[..., TrainConfig]] = {recipe.__name__: recipe for recipe in (distil, policy_distillation, case_study, dqn)}


def recipe(name: str, *, pixels: bool) -> TrainConfig:
    """The recipe of this name.

    Raises:
        SpecError: there is none.
    """
    if name not in RECIPES:
        raise SpecError(f"Unknown recipe '{name}': use one of {', '.join(RECIPES)}.")
    return RECIPES[name](pixels=pixels)
