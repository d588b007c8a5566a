"""Recipes that learn from reward: with a teacher who gives way to it, or alone."""

from distilrl.collect import Behaviour
from distilrl.config import TrainConfig
from distilrl.envs import EnvInfo
from distilrl.objective import TDTerm, TeacherTerm, Term
from distilrl.schedules import Schedule
from distilrl.specs import suggest


def qdagger(info: EnvInfo) -> TrainConfig:
    """Reincarnating RL (Agarwal et al. 2022): TD on what the student sees, and a KL that fades as its *score* rises.

    Departures: the share of environments that the teacher drives falls to 0 over the first tenth, instead of an offline
    phase; the weight follows the best score so far, so that it is never above its start and never comes back.
    """
    kl = TeacherTerm("forward_kl", weight=Schedule(3.0, 0.0, by="score"), student_temperature=None)
    return _with_reward("qdagger", info, (TDTerm("double_td"), kl), Schedule(1.0, 0.0, 0.1))


def kickstarting(info: EnvInfo) -> TrainConfig:
    """Schmitt et al. 2018: reward and teacher together, the teacher's weight falling in a straight line."""
    kl = TeacherTerm("forward_kl", weight=Schedule(1.0, 0.0, 0.5), student_temperature=None)
    return _with_reward("kickstarting", info, (TDTerm("double_td"), kl), Schedule(0.0))


def finetune(info: EnvInfo) -> TrainConfig:
    """Distil first, then learn from reward: values are regressed on the teacher's until TD, warmed up, takes over."""
    kl, values = Schedule(1.0, 0.0, 0.8, start=0.4), Schedule(1.0, 0.0, 0.6, start=0.3)
    terms = _handed_over(kl, values, Schedule(0.0, 1.0, 0.6, start=0.3))
    return _with_reward("finetune", info, terms, Schedule(0.5, 0.0, 0.5))


def dqfd(info: EnvInfo) -> TrainConfig:
    """Learning from demonstrations (Hester et al. 2018): n-step TD, and the teacher's action must lead.

    Departures: the teacher labels every state, so that the lead (a margin) holds on the student's states too, and it
    fades with the score; the share of environments that the teacher drives falls to 0 over the first tenth; neither a
    1-step TD beside the n-step one, nor L2, nor updates on demonstrations before the student acts, nor demonstrations
    that are drawn by priority; rewards as they are instead of their logarithm.
    """
    margin = TeacherTerm("large_margin", weight=Schedule(1.0, 0.0, by="score"))
    return _with_reward("dqfd", info, (TDTerm("double_td"), margin), Schedule(1.0, 0.0, 0.1))


def transfer(info: EnvInfo) -> TrainConfig:
    """A teacher of one environment, a student for a changed one: its answers first, then reward alone.

    `finetune` with an earlier hand-over, because the teacher's answers were right for other dynamics.
    """
    kl, values = Schedule(1.0, 0.0, 0.5, start=0.15), Schedule(1.0, 0.0, 0.35, start=0.15)
    terms = _handed_over(kl, values, Schedule(0.0, 1.0, 0.3, start=0.1))
    return _with_reward("transfer", info, terms, Schedule(0.5, 0.0, 0.3))


def reward_aware(info: EnvInfo) -> TrainConfig:
    """Expected entropy regularised distillation (Czarnecki et al. 2019, their recommended form) with reward.

    The student drives, lowers H(p_s, p) in its states, and log p of its next action is added to the reward that TD
    sees.
    Departures: they have policy gradients; here the bonus stands in the double TD target, times 0.1, and stays where
    the cross-entropy has faded with the score.
    """
    fading = Schedule(1.0, 0.0, by="score")
    entropy = TeacherTerm("expected_cross_entropy", weight=fading, student_temperature=None)
    config = _with_reward("reward_aware", info, (TDTerm("double_td", bonus=0.1), entropy), Schedule(0.0))
    behaviour = Behaviour("student", epsilon=config.data.behaviour.epsilon, greedy_share=0.0)
    return config.but(behaviour=behaviour)


def dqn(info: EnvInfo) -> TrainConfig:
    """Double DQN with n-step returns (Mnih et al. 2015; van Hasselt et al. 2016; Hessel et al. 2018 for n = 3).

    Inputs are not standardised by the first states: random play sees a small part of what comes later, and features
    that grow tenfold kept Acrobot from being learnt at all.
    """
    config = TrainConfig(recipe="dqn").but(
        terms=(TDTerm("double_td"),),
        network="mlp:128,128",
        behaviour=Behaviour("student", epsilon=Schedule(1.0, 0.05, 0.2), greedy_share=0.0),
        env_steps=60_000, n_envs=8, updates=2, batch_size=256, learning_rate=2e-3, learning_starts=2_000,
        n_step=3, target_every=100, average=0.99, standardise="space", check_every=1_000, patience=1, threads=1,
    )  # fmt: skip
    if info.atari:
        return config.but(
            network="cnn:32,64,64:512", for_learning=True, env_steps=5_000_000,
            n_envs=64, updates=8, learning_rate=2.5e-4, learning_starts=20_000, target_every=500,
            capacity=400_000, check_every=100_000, check_episodes=8, patience=2, threads=2,
        )  # fmt: skip
    if info.obs.image is None:
        return config
    return config.but(network=suggest(info.obs.image), learning_rate=2.5e-4, env_steps=500_000, check_every=10_000)


def rainbow_lite(info: EnvInfo) -> TrainConfig:
    """`dqn` with a dueling head and prioritised replay, after Rainbow (Hessel et al. 2018).

    Priority exponent 0.5 and importance weights 1/√p as in Dopamine's Rainbow (Castro et al. 2018); the TD term's Huber
    loss stands for the error.
    """
    return dqn(info).but(recipe="rainbow_lite", dueling=True, priority_exponent=0.5)


def _handed_over(kl: Schedule, values: Schedule, td: Schedule) -> tuple[Term, ...]:
    """Distillation on the teacher's scale that gives way to TD."""
    return (
        TeacherTerm("forward_kl", weight=kl, student_temperature=None),
        TeacherTerm("value_regression", weight=values, teacher_temperature=1.0),
        TDTerm("double_td", weight=td),
    )


def _with_reward(name: str, info: EnvInfo, terms: tuple[Term, ...], beta: Schedule) -> TrainConfig:
    """`dqn`'s way of learning with less exploration and a teacher that drives at first."""
    behaviour = Behaviour("mixed", beta=beta, epsilon=Schedule(0.1, 0.02, 0.5), greedy_share=0.0)
    return dqn(info).but(recipe=name, terms=terms, behaviour=behaviour, entropy_share=0.15)
