"""Recipes: named methods, each a function that returns a complete, serialisable `TrainConfig`.

A recipe sets what the method is (terms, behaviour, sampling) and what suits the kind of environment (pixels or vectors).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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


def adversarial_states(*, pixels: bool) -> TrainConfig:
    """Distillation that holds under small disturbances: the same KL also at the worst states near those visited.

    Adversarially robust distillation (Goldblum et al. 2020) for policies: the teacher's answer to the clean state is the label.
    """
    terms = (Term("forward_kl"), Term("adversarial_kl", weight=Schedule(1.0)))
    return replace(distil(pixels=pixels), recipe="adversarial_states", terms=terms)


def dkd(*, pixels: bool) -> TrainConfig:
    """Decoupled distillation (Zhao et al. 2022): whether the greedy action is right, and the order of the others, weighted apart.

    α = 1, β = 8 as in the authors' CIFAR settings; the target class is the teacher's greedy action.
    """
    return _with_terms("dkd", Term("dkd"), pixels=pixels)


def dist(*, pixels: bool) -> TrainConfig:
    """DIST (Huang et al. 2022): correlations of the two policies, over actions and over the batch, each at weight 2."""
    terms = (Term("correlation", weight=Schedule(2.0)), Term("batch_correlation", weight=Schedule(2.0)))
    return _with_terms("dist", *terms, pixels=pixels)


def regression(*, pixels: bool) -> TrainConfig:
    """Output features regressed: Rusu et al. 2016's mean squared error, of centred action values in units of the temperature."""
    return replace(_with_terms("regression", Term("centred_regression"), pixels=pixels), scale_head=True)


def cloning(*, pixels: bool) -> TrainConfig:
    """Behaviour cloning of the teacher's greedy action on the same data (Rusu et al. 2016's NLL): what action values add is the rest."""
    return _with_terms("cloning", Term("nll"), pixels=pixels)


def fitnets(*, pixels: bool) -> TrainConfig:
    """FitNets (Romero et al. 2015): first the middle layer through a projector, then the policy.

    Departures: the hint fades while the KL sets in, from a quarter to three tenths of the budget, instead of two separate trainings.
    """
    hints = Term("hint", weight=Schedule(1.0, 0.0, 0.3, start=0.25), taps="middle")
    return _with_terms("fitnets", hints, Term("forward_kl", weight=Schedule(0.0, 1.0, 0.3, start=0.25)), pixels=pixels)


def hints(*, pixels: bool) -> TrainConfig:
    """The policy and, beside it throughout, hints at all layers paired by depth, each through a projector; weight 0.1."""
    return _with_terms("hints", Term("forward_kl"), Term("hint", weight=Schedule(0.1), taps="all"), pixels=pixels)


def attention(*, pixels: bool) -> TrainConfig:
    """Attention transfer (Zagoruyko & Komodakis 2017): where the maps of convolutions are active; only for pixels.

    Weight 1 on the sum over a map, instead of 1000 on its mean: the same size for maps of a thousand places.
    """
    if not pixels:
        raise SpecError("The recipe 'attention' compares maps of convolutions: for vectors use hints, similarity or relational.")
    return _with_terms("attention", Term("forward_kl"), Term("attention_transfer", taps="all"), pixels=pixels)


def relational(*, pixels: bool) -> TrainConfig:
    """Relational distillation (RKD, Park et al. 2019): distances (weight 1) and angles (2) between states in the last hidden layer."""
    terms = (Term("relational_distance", weight=Schedule(1.0)), Term("relational_angle", weight=Schedule(2.0)))
    return _with_terms("relational", Term("forward_kl"), *terms, pixels=pixels)


def similarity(*, pixels: bool) -> TrainConfig:
    """Similarity-preserving distillation (Tung & Mori 2019) in the last hidden layer.

    Departure: weight 30 on a mean over the row, which at their batch of 256 is a tenth of their 3000 on the mean over the matrix.
    """
    return _with_terms("similarity", Term("forward_kl"), Term("similarity", weight=Schedule(30.0)), pixels=pixels)


def actor_mimic(*, pixels: bool) -> TrainConfig:
    """Actor-Mimic (Parisotto et al. 2016): student-driven, the policy at one temperature on both sides, and feature regression at 0.01.

    Departure: the temperature is found from the teacher's entropy; theirs was 1 for Q-values of clipped rewards.
    """
    terms = (Term("forward_kl", student_temperature=None), Term("hint", weight=Schedule(0.01)))
    config = _with_terms("actor_mimic", *terms, pixels=pixels)
    return replace(config, behaviour=Behaviour("student", epsilon=Schedule(0.1), greedy_share=0.0), gap_exponent=0.0)


def reused_head(*, pixels: bool) -> TrainConfig:
    """Projection into the teacher's own frozen head (SimKD, Chen et al. 2022), the projector folded away at export.

    Departure: the KL is kept beside the regression (SimKD has the regression alone).
    """
    config = _with_terms("reused_head", Term("forward_kl"), Term("hint", weight=Schedule(1.0)), pixels=pixels)
    return replace(config, reused_head=True, scale_head=True)


def svd_start(*, pixels: bool) -> TrainConfig:
    """Projection of parameters: the student starts from the leading singular directions of its teacher's layers."""
    return replace(distil(pixels=pixels), recipe="svd_start", start="svd")


def strongest_start(*, pixels: bool) -> TrainConfig:
    """Projection of parameters: the student starts from its teacher's strongest units (norms in and out, as pruning ranks them)."""
    return replace(distil(pixels=pixels), recipe="strongest_start", start="strongest")


def discriminator(*, pixels: bool) -> TrainConfig:
    """A discriminator on (state, action values) that the student must fool, beside the KL; its weight fades to 0 over the budget.

    The adversarial part of GAN-style distillation (Xu et al. 2018; Wang et al. 2018), on policies. The fading is ours: the game
    has no fixed end, and what is shipped should not depend on its last move.
    """
    return _with_terms("discriminator", Term("forward_kl"), Term("discriminator", weight=Schedule(0.1, 0.0)), pixels=pixels)


def curriculum(*, pixels: bool) -> TrainConfig:
    """From soft to sharp: the teacher at a quarter of its sharpness at first, at full sharpness from half of the budget on.

    After curriculum temperature (Li et al. 2023), with a fixed path instead of a learned one.
    """
    return _with_terms("curriculum", Term("forward_kl", sharpness=Schedule(0.25, 1.0, 0.5)), pixels=pixels)


def dynamic(*, pixels: bool) -> TrainConfig:
    """What is measured decides: the teacher labels until the score is there, then a twentieth of the steps, and all again after a drift.

    Sharpness follows agreement, the teacher's share of driving the score; after a drift the best student of before does not count.
    """
    config = distil(pixels=pixels)
    labels = (Schedule(1.0, 0.05, 0.97, start=0.95, by="score"), Schedule(0.05, 1.0, 0.35, start=0.3, by="drift"))
    behaviour = replace(config.behaviour, beta=Schedule(0.5, 0.0, 0.9, by="score"), labels=labels)
    terms = (Term("forward_kl", sharpness=Schedule(0.5, 1.0, 0.8, by="agreement")),)
    return replace(config, recipe="dynamic", terms=terms, behaviour=behaviour, drift_threshold=0.3, stop_gap=-10.0)


def _with_terms(name: str, *terms: Term, pixels: bool) -> TrainConfig:
    """The default's data and settings under another objective."""
    return replace(distil(pixels=pixels), recipe=name, terms=terms)


def qdagger(*, pixels: bool) -> TrainConfig:
    """Reincarnating RL (Agarwal et al. 2022): TD on what the student lives through, and a KL that fades as its *score* rises.

    Departures: the share of environments that the teacher drives falls to 0 over the first tenth, instead of an offline phase; the weight
    follows the best score so far, so that it is never above its start and never comes back.
    """
    kl = Term("forward_kl", weight=Schedule(3.0, 0.0, by="score"), student_temperature=None)
    return _with_reward("qdagger", (Term("double_td"), kl), Schedule(1.0, 0.0, 0.1), pixels=pixels)


def kickstarting(*, pixels: bool) -> TrainConfig:
    """Schmitt et al. 2018: reward and teacher together from the start, the teacher's weight falling in a straight line."""
    kl = Term("forward_kl", weight=Schedule(1.0, 0.0, 0.5), student_temperature=None)
    return _with_reward("kickstarting", (Term("double_td"), kl), Schedule(0.0), pixels=pixels)


def finetune(*, pixels: bool) -> TrainConfig:
    """Distil first, then learn from reward: values are regressed on the teacher's until TD, warmed up, has taken over."""
    kl, values, td = Schedule(1.0, 0.0, 0.8, start=0.4), Schedule(1.0, 0.0, 0.6, start=0.3), Schedule(0.0, 1.0, 0.6, start=0.3)
    return _with_reward("finetune", _handed_over(kl, values, td), Schedule(0.5, 0.0, 0.5), pixels=pixels)


def dqfd(*, pixels: bool) -> TrainConfig:
    """Learning from demonstrations (Hester et al. 2018): n-step TD, and a margin by which the teacher's action must lead.

    Departures: the teacher labels every state, so that the margin holds on the student's states too, and it fades with the score.
    """
    margin = Term("large_margin", weight=Schedule(1.0, 0.0, by="score"))
    return _with_reward("dqfd", (Term("double_td"), margin), Schedule(1.0, 0.0, 0.1), pixels=pixels)


def transfer(*, pixels: bool) -> TrainConfig:
    """A teacher of one environment, a student for a changed one: its answers at first, reward soon and alone from half of the budget on.

    `finetune` with an earlier hand-over, because the teacher's answers were right for other dynamics.
    """
    kl, values, td = Schedule(1.0, 0.0, 0.5, start=0.15), Schedule(1.0, 0.0, 0.35, start=0.15), Schedule(0.0, 1.0, 0.3, start=0.1)
    return _with_reward("transfer", _handed_over(kl, values, td), Schedule(0.5, 0.0, 0.3), pixels=pixels)


def reward_aware(*, pixels: bool) -> TrainConfig:
    """Expected entropy regularised distillation (Czarnecki et al. 2019, their recommended form) with the environment's reward.

    The student drives, lowers H(p_s, p) in its states, and log p of its next action is added to the reward that TD sees.
    Departure: they have policy gradients; here the bonus stands in the double TD target, times 0.1.
    """
    terms = (
        Term("double_td", bonus=0.1),
        Term("expected_cross_entropy", weight=Schedule(1.0, 0.0, by="score"), student_temperature=None),
    )
    config = _with_reward("reward_aware", terms, Schedule(0.0), pixels=pixels)
    return replace(config, behaviour=replace(config.behaviour, name="student"))


def _handed_over(kl: Schedule, values: Schedule, td: Schedule) -> tuple[Term, ...]:
    """Distillation on the teacher's scale that gives way to TD."""
    return (
        Term("forward_kl", weight=kl, student_temperature=None),
        Term("value_regression", weight=values, teacher_temperature=1.0),
        Term("double_td", weight=td),
    )


def _with_reward(name: str, terms: tuple[Term, ...], beta: Schedule, *, pixels: bool) -> TrainConfig:
    """A method that learns from reward too: `dqn`'s way of learning, less exploration, and a teacher that drives at first."""
    behaviour = Behaviour("mixed", beta=beta, epsilon=Schedule(0.1, 0.02, 0.5), greedy_share=0.0)
    return replace(dqn(pixels=pixels), recipe=name, terms=terms, behaviour=behaviour, entropy_share=0.15)


def dqn(*, pixels: bool) -> TrainConfig:
    """Double DQN with n-step returns (Mnih et al. 2015; van Hasselt et al. 2016; Hessel et al. 2018 for n = 3): the TD term alone.

    Inputs are not standardised by the first states: random play sees a small part of what comes later, and features that grow tenfold
    kept Acrobot from being learnt at all.
    """
    config = TrainConfig(
        recipe="dqn",
        student="mlp:128,128",
        terms=(Term("double_td"),),
        behaviour=Behaviour("student", epsilon=Schedule(1.0, 0.05, 0.2), greedy_share=0.0),
        n_step=3,
        env_steps=60_000,
        n_envs=8,
        updates=2,
        batch_size=256,
        learning_rate=2e-3,
        learning_starts=2_000,
        target_every=100,
        average=0.99,
        standardise="space",
        check_every=1_000,
        patience=1,
        threads=1,
    )
    if not pixels:
        return config
    return replace(
        config, student="cnn:32,64,64:512", for_learning=True, env_steps=5_000_000,
        n_envs=64, updates=8, learning_rate=2.5e-4, learning_starts=20_000, target_every=500,
        capacity=400_000, check_every=100_000, check_episodes=8, patience=2, threads=2,
    )  # fmt: skip


def rainbow_lite(*, pixels: bool) -> TrainConfig:
    """`dqn` with a dueling head and prioritised replay: Rainbow (Hessel et al. 2018) without the distribution and the noisy layers.

    Priority exponent 0.5 and importance weights 1/√p as in Dopamine's Rainbow (Castro et al. 2018); the TD term's Huber loss
    stands for the error.
    """
    return replace(dqn(pixels=pixels), recipe="rainbow_lite", dueling=True, priority_exponent=0.5)


def settings(name: str, env_id: str) -> dict[str, Any]:
    """What an environment is known to need beyond its recipe; found by trial on seed 0, checked on five seeds (benchmarks)."""
    if name not in TEACHERLESS:
        return {}
    pushes = Behaviour("student", epsilon=Schedule(1.0, 0.05, 0.2), greedy_share=0.0, zeta=1.5)
    known: dict[str, dict[str, Any]] = {
        "Acrobot-v1": {"behaviour": pushes},
        "MountainCar-v0": {"behaviour": pushes, "gamma": 0.98, "env_steps": 100_000},
        "LunarLander-v3": {
            "env_steps": 100_000, "student": "mlp:256,256", "updates": 8, "batch_size": 128, "learning_rate": 6.3e-4,
            "target_every": 250, "n_step": 1, "check_every": 2_000,
            "behaviour": Behaviour("student", epsilon=Schedule(1.0, 0.1, 0.12), greedy_share=0.0),
        },
    }  # fmt: skip
    return known.get(env_id, {})


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


RECIPES: dict[str, Callable[..., TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        distil, policy_distillation, case_study, regression, cloning, dkd, dist,
        fitnets, hints, attention, relational, similarity, actor_mimic, reused_head, svd_start, strongest_start,
        adversarial_states, discriminator, curriculum, dynamic,
        qdagger, kickstarting, finetune, transfer, dqfd, reward_aware, dqn, rainbow_lite,
    )
}  # fmt: skip
TEACHERLESS = ("dqn", "rainbow_lite")


def recipe(name: str, *, pixels: bool) -> TrainConfig:
    """The recipe of this name.

    Raises:
        SpecError: there is none.
    """
    if name not in RECIPES:
        raise SpecError(f"Unknown recipe '{name}': use one of {', '.join(RECIPES)}.")
    return RECIPES[name](pixels=pixels)
