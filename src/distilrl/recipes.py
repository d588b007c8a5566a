"""Recipes: named methods, each a function from what is known of an environment to a complete `TrainConfig`.

A recipe sets what the method is (terms, behaviour, sampling) and what suits the kind of environment. `RECIPES` is the
one table of them; a recipe of your own is a function like these, given as such or as ``my_module:my_recipe``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from distilrl.collect import Behaviour
from distilrl.config import TrainConfig
from distilrl.envs import EnvInfo
from distilrl.errors import SpecError
from distilrl.heads import student_head
from distilrl.objective import AdversarialTerm, FeatureTerm, JudgedTerm, TeacherTerm, Term, of_somebody, own
from distilrl.reward_recipes import dqfd, dqn, finetune, kickstarting, qdagger, rainbow_lite, reward_aware, transfer
from distilrl.schedules import Schedule
from distilrl.specs import BOARD, suggest

Make = Callable[[EnvInfo], TrainConfig]


def distil(info: EnvInfo) -> TrainConfig:
    """The default: the teacher's answers on data of both, drawn where its choice matters.

    Choices: KL of Rusu et al. 2016, its temperature found from the teacher's entropy; states drawn by value gap (VIPER,
    Bastani et al. 2018) where observations are images. Real actions: squared error after the squash, or
    before clipping but for what lies beyond a bound on both sides; states drawn by what the teacher's critic says is at
    stake, where it brings one; from vectors SOAP (Vyas et al. 2025) instead of Adam.
    A share of the environments is driven by the student, with vectors soon all (DAgger, Ross et al. 2011); inputs are
    standardised; the shipped weights are an average over training (Polyak & Juditsky 1992).
    """
    shared = TrainConfig(recipe="distil", terms=(_policy(info),)).but(average=0.99)
    if student_head(info.action).real:
        config = _for_real_actions(shared)
    elif info.obs.image is None:
        config = _for_vectors(shared)
    else:
        config = shared.but(stakes_exponent=0.5)
    return config if info.obs.image is None else _for_images(config, info)


def policy_distillation(info: EnvInfo) -> TrainConfig:
    """Rusu et al. 2016 as printed: teacher-driven data at epsilon 0.05, KL with τ = 0.01 on the teacher only.

    Departures: Adam with a cosine instead of RMSProp; inputs standardised; data collected while it learns.
    """
    return _with_terms("policy_distillation", info, TeacherTerm("forward_kl", teacher_temperature=0.01)).but(
        behaviour=Behaviour("teacher", greedy_share=0.0),
        stakes_exponent=0.0,
        average=0.0,
        optimiser="adam",
        learning_rate=1e-3,
    )


def case_study(info: EnvInfo) -> TrainConfig:
    """L_KD = L_KL + L_adv: KL plus the gap of the worst action, for choices and for real actions.

    Choices: the printed form takes logarithms of Q-values, which may be negative; here p = softmax(Q/τ) and
    p_s = softmax(Q_s/τ), and L_adv = log(1 + max_a (q − q_s)²), the gap of the worst action under the Cauchy loss, of
    values q in units of what the teacher's vary by, the state's value in one and the differences between actions in
    another (`Units`, after van Hasselt et al. 2016). The head ships on the teacher's scale: its outputs are action
    values whose choice is the policy that was judged. Checks of a score of 0.95 are equally good, and the last is kept,
    because values are learnt for longer than the policy. Of logits, which have no state value, L_adv is centred.
    Real actions: the KL of two Gaussians, and a tenth of the squared gap of the worst dimension, both in units of the
    teacher's standard deviation; a tenth of the half-range where it has none.
    """
    if student_head(info.action).real:
        terms = (TeacherTerm("forward_kl"), TeacherTerm("worst_action_gap", weight=Schedule(0.1)))
        return _with_terms("case_study", info, *terms)
    terms = (TeacherTerm("forward_kl", student_temperature=None), TeacherTerm("worst_value_gap", scale="units"))
    return _with_terms("case_study", info, *terms).but(value_units=True, enough=0.95)


def adversarial_states(info: EnvInfo) -> TrainConfig:
    """Distillation that holds under small disturbances: the same KL also at the worst states near those visited.

    Adversarially robust distillation (Goldblum et al. 2020) for policies: the teacher's answer to the clean state is
    the label.
    """
    return _with_terms("adversarial_states", info, TeacherTerm("forward_kl"), AdversarialTerm())


def dkd(info: EnvInfo) -> TrainConfig:
    """Decoupled distillation (Zhao et al. 2022): the greedy action, and the order of the others, weighted apart.

    α = 1, β = 8 as in the authors' CIFAR settings. Departures: there are no labels, so that the target class is the
    teacher's greedy action and their class loss is left out; the loss has its weight from the start (no warm-up).
    """
    return _with_terms("dkd", info, TeacherTerm("dkd"))


def dist(info: EnvInfo) -> TrainConfig:
    """DIST (Huang et al. 2022): correlations of the two policies, over actions and over the batch, each at weight 2.

    Departures: there are no labels, so that their class loss is left out; the teacher's probabilities are sharpened by
    the temperature that is found, the student's are not.
    """
    two = Schedule(2.0)
    return _with_terms(
        "dist", info, TeacherTerm("correlation", weight=two), TeacherTerm("batch_correlation", weight=two)
    )


def regression(info: EnvInfo) -> TrainConfig:
    """Regression (Rusu et al. 2016): the squared error of centred values in units of τ, or of real actions.

    Real actions are compared after tanh; where they are clipped, nothing counts that lies beyond a bound on both sides.
    """
    loss = "action_regression" if student_head(info.action).real else "centred_regression"
    return _with_terms("regression", info, TeacherTerm(loss)).but(scale_head=True)


def cloning(info: EnvInfo) -> TrainConfig:
    """Behaviour cloning: of the teacher's answer only the action that it takes (Rusu et al. 2016's NLL).

    Of real actions, the squared error of what the environment sees, clipped.
    """
    loss = "clipped_regression" if student_head(info.action).real else "nll"
    return _with_terms("cloning", info, TeacherTerm(loss))


def fitnets(info: EnvInfo) -> TrainConfig:
    """FitNets (Romero et al. 2015): first the middle layer through a projector, then the policy.

    Departures: the hint fades while the policy sets in, from a quarter to three tenths of the budget, instead of two
    separate trainings.
    """
    hints = FeatureTerm("hint", weight=Schedule(1.0, 0.0, 0.3, start=0.25), taps="middle")
    return _with_terms("fitnets", info, hints, _policy(info, weight=Schedule(0.0, 1.0, 0.3, start=0.25)))


def hints(info: EnvInfo) -> TrainConfig:
    """The policy and, beside it, hints at all layers paired by depth, each through a projector; weight 0.1."""
    return _with_terms("hints", info, _policy(info), FeatureTerm("hint", weight=Schedule(0.1), taps="all"))


def attention(info: EnvInfo) -> TrainConfig:
    """Attention transfer (Zagoruyko & Komodakis 2017): where the maps of convolutions are active; only for images.

    Weight 1 on the sum over a map, instead of 1000 on its mean: the same size for maps of a thousand places.
    """
    return _with_terms("attention", info, _policy(info), FeatureTerm("attention_transfer", taps="all"))


def relational(info: EnvInfo) -> TrainConfig:
    """RKD (Park et al. 2019): distances (weight 1) and angles (2) between states in the last hidden layer."""
    angles = FeatureTerm("relational_angle", weight=Schedule(2.0))
    return _with_terms("relational", info, _policy(info), FeatureTerm("relational_distance"), angles)


def similarity(info: EnvInfo) -> TrainConfig:
    """Similarity-preserving distillation (Tung & Mori 2019) in the last hidden layer.

    Departure: weight 30, a hundredth of theirs; the loss is the same mean over the matrix.
    """
    return _with_terms("similarity", info, _policy(info), FeatureTerm("similarity", weight=Schedule(30.0)))


def actor_mimic(info: EnvInfo) -> TrainConfig:
    """Actor-Mimic (Parisotto et al. 2016): student-driven, one temperature on both sides, feature regression at 0.01.

    Departure: the temperature is found from the teacher's entropy; theirs was 1 for Q-values of clipped rewards.
    """
    terms = (_policy(info, student_temperature=None), FeatureTerm("hint", weight=Schedule(0.01)))
    behaviour = Behaviour("student", epsilon=Schedule(0.1), greedy_share=0.0)
    return _with_terms("actor_mimic", info, *terms).but(behaviour=behaviour, stakes_exponent=0.0)


def reused_head(info: EnvInfo) -> TrainConfig:
    """SimKD (Chen et al. 2022): projection into the teacher's own frozen head, the projector folded away at export.

    Departure: the policy's loss is kept beside the regression (SimKD has the regression alone).
    """
    config = _with_terms("reused_head", info, _policy(info), FeatureTerm("hint"))
    return config.but(reused_head=True, scale_head=True)


def svd_start(info: EnvInfo) -> TrainConfig:
    """The student starts from the leading singular directions of its teacher's layers."""
    return distil(info).but(recipe="svd_start", start="svd")


def strongest_start(info: EnvInfo) -> TrainConfig:
    """The student starts from its teacher's strongest units (norms in and out, as pruning ranks them)."""
    return distil(info).but(recipe="strongest_start", start="strongest")


def discriminator(info: EnvInfo) -> TrainConfig:
    """A discriminator on (state, policy) that the student must fool; its weight fades to 0 over the budget.

    The adversarial part of GAN-style distillation (Xu et al. 2018; Wang et al. 2018), on policies, beside the default's
    loss. The fading is ours: the game has no fixed end, and what is shipped should not depend on its last move.
    """
    return _with_terms("discriminator", info, _policy(info), JudgedTerm(weight=Schedule(0.1, 0.0)))


def curriculum(info: EnvInfo) -> TrainConfig:
    """From soft to sharp: the teacher at a quarter of its sharpness at first, at its own from half of the budget on.

    After curriculum temperature (Li et al. 2023), with a fixed path instead of a learned one.
    """
    return _with_terms("curriculum", info, TeacherTerm("forward_kl", sharpness=Schedule(0.25, 1.0, 0.5)))


def dynamic(info: EnvInfo) -> TrainConfig:
    """What is measured decides: the teacher labels until the score is there, then a twentieth, and all after a drift.

    Sharpness follows agreement, the teacher's share of driving the score; after a drift the best student of before does
    not count. Real actions have no sharpness.
    """
    config = distil(info)
    labels = (Schedule(1.0, 0.05, 0.97, start=0.95, by="score"), Schedule(0.05, 1.0, 0.35, start=0.3, by="drift"))
    beta = Schedule(0.5, 0.0, 0.9, by="score")
    behaviour = Behaviour("mixed", beta, config.data.behaviour.epsilon, labels=labels)
    term = _policy(info, sharpness=Schedule(0.5, 1.0, 0.8, by="agreement"))
    return config.but(recipe="dynamic", terms=(term,), behaviour=behaviour, drift_threshold=0.3, gap=-10.0)


# -- what recipes share


def _policy(info: EnvInfo, **settings: Any) -> TeacherTerm:
    """The default's own term; of real actions a squared error, which has no temperature."""
    if not student_head(info.action).real:
        return TeacherTerm("forward_kl", **settings)
    return TeacherTerm("action_regression", weight=settings.get("weight", Schedule(1.0)))


def _with_terms(name: str, info: EnvInfo, *terms: Term) -> TrainConfig:
    """The default's data and settings under another objective."""
    return distil(info).but(recipe=name, terms=terms)


def _for_vectors(config: TrainConfig) -> TrainConfig:
    """What tiny students of CartPole and Acrobot asked for: a sharper teacher, a higher learning rate, a longer
    average, data that becomes the student's own; drawing by the value gap did not help them.
    """
    behaviour = Behaviour("mixed", beta=Schedule(0.5, 0.0, 0.3))
    return config.but(
        learning_rate=5e-3, entropy_share=0.15, average=0.995, learning_starts=800, behaviour=behaviour, threads=1
    )


def _for_real_actions(config: TrainConfig) -> TrainConfig:
    """What HalfCheetah, Hopper and Walker2d asked for: data that goes from the teacher's to the student's own over the
    first half of the budget, no random actions (Hopper falls of them), SOAP, which needs a third of Adam's updates
    where a network is as small as this, states drawn by the root of what a critic says is at stake where the teacher
    brings one (in proportion to it HalfCheetah gains more, and Walker2d loses).
    That each dimension is within a tenth of its half-range is no condition for stopping.
    """
    return config.but(
        behaviour=Behaviour("mixed", beta=Schedule(1.0, 0.0, 0.5), epsilon=Schedule(0.0)),
        env_steps=200_000, n_envs=8, updates=6, batch_size=256, optimiser="soap", learning_rate=1e-2,
        learning_starts=2_000, stakes_exponent=0.5, check_every=10_000, check_episodes=20, finalists=4,
        agreement=0.0, average=0.995, threads=1,
    )  # fmt: skip


def _for_images(config: TrainConfig, info: EnvInfo) -> TrainConfig:
    """A convolutional student. Sizes for Atari: many environments, small batches, frequent updates; elsewhere steps
    cost more, and there are fewer environments, but for boards.
    """
    image = info.obs.image or info.obs.shape
    config = config.but(network=suggest(image), threads=2, optimiser="adam")
    if min(image[1:]) < BOARD:
        return config.but(
            env_steps=100_000, n_envs=32, batch_size=64, learning_rate=3e-3, learning_starts=1_280,
            check_every=10_000, threads=1,
        )  # fmt: skip
    if not info.atari:
        return config.but(
            batch_size=64, learning_rate=1e-3, learning_starts=1_280, check_every=10_000, env_steps=100_000
        )
    return config.but(
        env_steps=48_000, n_envs=32, updates=4, batch_size=64, learning_rate=3e-3, learning_starts=1_280,
        capacity=100_000, check_every=4_800, check_episodes=8,
    )  # fmt: skip


# -- the table

Need = Literal["teacher", "image", "choices", "one choice"]


@dataclass(frozen=True)
class Recipe:
    """A line of the table."""

    make: Make
    """The function."""
    needs: tuple[Need, ...] = ("teacher",)
    """What it cannot do without: a teacher, images, actions that are choices, or a single one."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.make.__name__

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        return (self.make.__doc__ or "").strip().split("\n")[0]

    def lacks(self, info: EnvInfo) -> str:
        """What an environment lacks of what the recipe needs; empty where it lacks nothing."""
        real = student_head(info.action).real
        if real and ("choices" in self.needs or "one choice" in self.needs):
            return f"choices among a few actions, but {info.id} has {info.action.describe()}"
        if "one choice" in self.needs and info.action.size > 1:
            return f"a single choice, but {info.id} has {info.action.describe()}"
        if "image" in self.needs and info.obs.image is None:
            return f"maps of convolutions, but {info.id} shows vectors of {info.obs.vector} numbers"
        return ""

    def __call__(self, info: EnvInfo) -> TrainConfig:
        """The configuration for an environment.

        Raises:
            SpecError: it cannot be used there; names those that can.
        """
        if lacking := self.lacks(info):
            if self.name in TEACHERLESS:
                raise SpecError(
                    f"The recipe '{self.name}' needs {lacking}: train the teacher with another library, such as "
                    "stable-baselines3 or CleanRL, and distil its file."
                )
            others = [one.name for one in RECIPES.values() if not one.lacks(info) and "teacher" in one.needs]
            raise SpecError(f"The recipe '{self.name}' needs {lacking}: use one of {', '.join(others)}.")
        return self.make(info)


_TAUGHT: Need = "teacher"
RECIPES: dict[str, Recipe] = {
    one.name: one
    for one in (
        Recipe(distil), Recipe(policy_distillation), Recipe(case_study), Recipe(regression), Recipe(cloning),
        Recipe(dkd, (_TAUGHT, "choices")), Recipe(dist, (_TAUGHT, "choices")),
        Recipe(fitnets), Recipe(hints), Recipe(attention, (_TAUGHT, "image")), Recipe(relational), Recipe(similarity),
        Recipe(actor_mimic), Recipe(reused_head), Recipe(svd_start), Recipe(strongest_start),
        Recipe(adversarial_states), Recipe(discriminator), Recipe(curriculum, (_TAUGHT, "choices")), Recipe(dynamic),
        *(Recipe(make, (_TAUGHT, "one choice")) for make in (
            qdagger, kickstarting, finetune, transfer, dqfd, reward_aware,
        )),
        Recipe(dqn, ("one choice",)), Recipe(rainbow_lite, ("one choice",)),
    )
}  # fmt: skip
"""Every recipe by its name; the command line reads it too."""
TEACHERLESS = tuple(name for name, one in RECIPES.items() if "teacher" not in one.needs)
"""Recipes that learn from reward alone."""


def recipe(name: str | Callable[[EnvInfo], TrainConfig], info: EnvInfo) -> TrainConfig:
    """The configuration of a recipe for an environment.

    Args:
        name: one of `RECIPES`, ``my_module:my_recipe``, whose module is imported, or such a function itself.
        info: what is known of the environment.

    Raises:
        SpecError: there is none, or it cannot be used here.

    Example::

        config = recipe("distil", describe_env("CartPole-v1"))
    """
    if isinstance(name, str) and ":" not in name:
        if name not in RECIPES:
            raise SpecError(f"Unknown recipe '{name}': use one of {', '.join(RECIPES)}, or my_module:my_recipe.")
        return RECIPES[name](info)
    make = own(name, "recipe") if isinstance(name, str) else name
    called = name if isinstance(name, str) else getattr(name, "__name__", name)
    with of_somebody(f"The recipe '{called}'"):
        config = make(info) if callable(make) else make
    if not isinstance(config, TrainConfig):
        does = "gave" if callable(make) else "is"
        raise SpecError(
            f"The recipe '{called}' must be a function from EnvInfo to TrainConfig, and {does} {type(config)}."
        )
    return config.but(recipe=name) if isinstance(name, str) else config


def settings(name: str, env_id: str) -> dict[str, Any]:
    """What an environment is known to need beyond its recipe; found by trial on seed 0, checked on five seeds."""
    if name not in TEACHERLESS:
        return {}
    pushes = Behaviour("student", epsilon=Schedule(1.0, 0.05, 0.2), greedy_share=0.0, zeta=1.5)
    known: dict[str, dict[str, Any]] = {
        "Acrobot-v1": {"behaviour": pushes},
        "MountainCar-v0": {"behaviour": pushes, "gamma": 0.98, "env_steps": 100_000},
        "LunarLander-v3": {
            "env_steps": 100_000, "network": "mlp:256,256", "updates": 8, "batch_size": 128, "learning_rate": 6.3e-4,
            "target_every": 250, "n_step": 1, "check_every": 2_000,
            "behaviour": Behaviour("student", epsilon=Schedule(1.0, 0.1, 0.12), greedy_share=0.0),
        },
    }  # fmt: skip
    return known.get(env_id, {})
