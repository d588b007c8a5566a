"""Pure losses: tensors in, one number per example out.

No loss reduces over the batch, multiplies by a squared temperature, or divides by a temperature: whoever
calls it does that in sight. ``student`` and ``teacher`` arguments are action values (B, A) (Q-values or
logits); where a loss reads them as logits, its caller has divided them by the temperature it wants.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Values = Float[Tensor, "B A"]
Features = Float[Tensor, "B *D"]
OtherFeatures = Float[Tensor, "B *E"]
PerExample = Float[Tensor, "B"]
SAME = 1e-6
"""Distance, in units of the features' own length, up to which two examples' are the same but for rounding."""


def centre(values: Values) -> Values:
    """Action values minus their mean over actions, (B, A): what is left when a constant offset costs nothing."""
    return values - values.mean(dim=1, keepdim=True)


def forward_kl(*, student: Values, teacher: Values) -> PerExample:
    """KL(p || p_s) = Σ_a p (log p − log p_s), p = softmax(teacher), p_s = softmax(student) (Rusu et al. 2016, eq.
    3).
    """
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return _weighted_sum(log_p.exp(), log_p - log_q)


def reverse_kl(*, student: Values, teacher: Values) -> PerExample:
    """KL(p_s || p) = Σ_a p_s (log p_s − log p): mode-seeking (Czarnecki et al. 2019)."""
    return forward_kl(student=teacher, teacher=student)


def jsd(*, student: Values, teacher: Values) -> PerExample:
    """Jensen-Shannon divergence, ½ KL(p || m) + ½ KL(p_s || m) with m = ½ (p + p_s); between 0 and log 2 (Lin 1991)."""
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=log_p.dtype, device=log_p.device))
    return 0.5 * (_weighted_sum(log_p.exp(), log_p - log_m) + _weighted_sum(log_q.exp(), log_q - log_m))


def nll(*, student: Values, teacher: Values) -> PerExample:
    """−log p_s of the teacher's greedy action: behaviour cloning (Rusu et al. 2016, eq. 1)."""
    return F.cross_entropy(student, teacher.argmax(dim=1), reduction="none")


def value_regression(*, student: Values, teacher: Values) -> PerExample:
    """Mean over actions of the squared difference of action values (Rusu et al. 2016, eq. 2)."""
    return (student - teacher).square().mean(dim=1)


def centred_regression(*, student: Values, teacher: Values) -> PerExample:
    """As `value_regression`, of centred values: a constant offset costs nothing."""
    return value_regression(student=centre(student), teacher=centre(teacher))


def standardised_regression(*, student: Values, teacher: Values) -> PerExample:
    """As `centred_regression`, each side divided by its standard deviation over actions: scale costs nothing either."""
    return value_regression(student=_standardise(student), teacher=_standardise(teacher))


def dkd(*, student: Values, teacher: Values, alpha: float = 1.0, beta: float = 8.0) -> PerExample:
    """Decoupled distillation, α KL(target or not) + β KL(among the others) (Zhao et al. 2022, eq. 7).

    The target class is the teacher's greedy action. With two actions there are no others to tell apart: the second
    part is 0.
    """
    if teacher.shape[1] == 1:  # nothing to choose
        return _weighted_sum(torch.zeros_like(student), student)
    target = F.one_hot(teacher.argmax(dim=1), teacher.shape[1]).bool()
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)

    def in_two(log_probabilities: Tensor) -> Tensor:
        others = torch.logsumexp(log_probabilities.masked_fill(target, -torch.inf), dim=1)
        return torch.stack([log_probabilities[target], others], dim=1)

    two_p, two_q = in_two(log_p), in_two(log_q)
    log_p, log_q = (F.log_softmax(values.masked_fill(target, -torch.inf), dim=1) for values in (teacher, student))
    difference = torch.where(target, torch.zeros_like(log_p), log_p - log_q)
    return alpha * _weighted_sum(two_p.exp(), two_p - two_q) + beta * _weighted_sum(log_p.exp(), difference)


def correlation(*, student: Values, teacher: Values) -> PerExample:
    """1 − Pearson correlation over actions of the two policies (DIST's first part, Huang et al. 2022, eq. 5).

    With two actions it can only be 0 or 2 and has no gradient: `batch_correlation` then is all there is.
    """
    return 1.0 - F.cosine_similarity(centre(student.softmax(dim=1)), centre(teacher.softmax(dim=1)), dim=1, eps=1e-12)


def batch_correlation(*, student: Values, teacher: Values) -> PerExample:
    """Each example's part of 1 − Pearson correlation over the batch, averaged over actions (DIST's second part, eq. 6).

    Its mean over the batch is the printed loss; like the relational losses it is of examples among others.
    """
    ours, theirs = (_standardise_columns(values.softmax(dim=1)) for values in (student, teacher))
    return 1.0 - (ours * theirs).mean(dim=1)


def large_margin(*, student: Values, teacher: Values, margin: float = 0.8) -> PerExample:
    """max_a [Q_s(s,a) + margin · (a ≠ a*)] − Q_s(s,a*), a* the teacher's greedy action (DQfD, Hester et al. 2018, eq.
    2).
    """
    best = teacher.argmax(dim=1, keepdim=True)
    raised = student + margin * torch.ones_like(student).scatter(1, best, 0.0)
    return raised.amax(dim=1) - student.gather(1, best).squeeze(1)


def expected_cross_entropy(*, student: Values, teacher: Values) -> PerExample:
    """−Σ_a p_s log p: what the student's own choices cost by the teacher's lights (Czarnecki et al. 2019, expected
    entropy regularised).
    """
    return -_weighted_sum(F.softmax(student, dim=1), F.log_softmax(teacher, dim=1))


def worst_action_gap(*, student: Values, teacher: Values) -> PerExample:
    """max_a (Q(s,a) − Q_s(s,a))² of centred values: L_adv of logits, with a constant offset costing nothing."""
    return (centre(student) - centre(teacher)).square().amax(dim=1)


def worst_value_gap(*, student: Values, teacher: Values) -> PerExample:
    """log(1 + max_a (Q(s,a) − Q_s(s,a))²), offset and all: the case study's L_adv of values in units of order 1.

    The gap of the worst action under the Cauchy (Lorentzian) loss of robust regression (Black & Anandan 1996; Barron
    2019, α = 0): its square where it is small, and next to no pull from where the student cannot follow.
    """
    return torch.log1p((student - teacher).abs().amax(dim=1).square())


def worst_centred_gap(*, student: Values, teacher: Values) -> PerExample:
    """As `worst_value_gap`, of centred values: of logits, whose offset says nothing."""
    return worst_value_gap(student=centre(student), teacher=centre(teacher))


def gaussian_kl(*, student: Values, teacher: Values, student_std: Values, teacher_std: Values) -> PerExample:
    """KL(N(m, s²) || N(m_s, s_s²)) = Σ_d [log(s_s/s) + (s² + (m − m_s)²) / (2 s_s²) − ½] of real actions (B, A),
    dimensions independent.

    With equal deviations it is Σ_d ((m − m_s)/s)² / 2: where the teacher is sure, a difference costs more.
    """
    ratio = (teacher_std.square() + (teacher - student).square()) / (2 * student_std.square())
    return ((student_std / teacher_std).log() + ratio - 0.5).sum(dim=1)


def worst_dimension_gap(*, student: Values, teacher: Values) -> PerExample:
    """max_d (m_d − m_s,d)² of real actions (B, A) in units of the caller's choice: the case study's L_adv, the worst
    dimension.
    """
    return (student - teacher).square().amax(dim=1)


def bounded_regression(
    *, student: Values, teacher: Values, low: Tensor | float = -1.0, high: Tensor | float = 1.0
) -> PerExample:
    """Mean squared difference of real actions (B, A) that are cut at bounds, 0 where both lie beyond the same bound:
    the environment sees no odds. A student on the wrong side of a bound is told how far it has to come back.

    Args:
        student: actions before they are cut.
        teacher: actions before they are cut.
        low: bounds that broadcast to (A,), in the units of the actions; -inf where there is none.
        high: bounds likewise.
    """
    beyond = ((student >= high) & (teacher >= high)) | ((student <= low) & (teacher <= low))
    return (student - teacher).square().masked_fill(beyond, 0.0).mean(dim=1)


def td_target(
    *,
    reward: PerExample,
    discount: PerExample,
    next_values: Values,
    next_choice: Values | None = None,
) -> PerExample:
    """R + discount · Q'(s', a*), (B,), a* the best action of ``next_choice`` (double DQN) or of ``next_values`` itself.

    Args:
        reward: n-step return R, undiscounted beyond its own n steps.
        discount: gamma^n, and 0 where the episode terminated within the n steps.
        next_values: values of the state n steps on, from the lagged network.
        next_choice: values of the same states from the network in training (van Hasselt et al. 2016).
    """
    action = (next_values if next_choice is None else next_choice).argmax(dim=1, keepdim=True)
    return reward + discount * next_values.gather(1, action).squeeze(1)


def td(*, values: Values, action: Int[Tensor, "B"], target: PerExample) -> PerExample:
    """Huber error (delta 1) of Q(s, a) against a TD target that takes no gradient (Mnih et al. 2015)."""
    chosen = values.gather(1, action.unsqueeze(1)).squeeze(1)
    return F.smooth_l1_loss(chosen, target.detach(), reduction="none")


def hint(*, student: Features, teacher: Features) -> PerExample:
    """Mean squared difference of features of one shape, after a projector where they differ (FitNets, Romero et al.
    2015, eq. 3).
    """
    return (student - teacher).square().flatten(1).mean(dim=1)


def attention_transfer(*, student: Features, teacher: OtherFeatures) -> PerExample:
    """Squared distance of the normalised maps Σ_c A_c² (Zagoruyko & Komodakis 2017, eq. 2, p = 2); (B, C, H, W), the
    larger is pooled.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    maps = [F.adaptive_avg_pool2d(x.square().sum(1, keepdim=True), size).flatten(1) for x in (student, teacher)]
    ours, theirs = (F.normalize(x, dim=1, eps=1e-12) for x in maps)
    return (ours - theirs).square().sum(dim=1)


def relational_distance(*, student: Features, teacher: OtherFeatures) -> PerExample:
    """Huber difference of distances to the batch's other examples, each side in units of its own mean (RKD-D, Park et
    al. 2019, eq. 6).

    Relational losses are of examples among others: they depend on which these are, though not on how many.
    """
    ours, theirs = (_mean_one(_distances(x.flatten(1))) for x in (student, teacher))
    return F.smooth_l1_loss(ours, theirs, reduction="none").sum(dim=1) / max(len(student) - 1, 1)


def relational_angle(*, student: Features, teacher: OtherFeatures, neighbours: int = 8) -> PerExample:
    """Huber difference of cosines of the angles at each example between pairs of others (RKD-A, Park et al. 2019, eq.
    8).

    Of all triplets, those with the next ``neighbours`` examples of the batch are taken: linear instead of cubic in B.
    """
    ours, theirs = (_cosines(x.flatten(1), min(neighbours, len(student) - 1)) for x in (student, teacher))
    return (
        F.smooth_l1_loss(ours, theirs, reduction="none").flatten(1).mean(dim=1)
        if ours.numel()
        else ours.new_zeros(len(student))
    )


def similarity(*, student: Features, teacher: OtherFeatures) -> PerExample:
    """Squared difference of row-normalised similarities G = A Aᵀ, averaged over the row (Tung & Mori 2019, eq. 4)."""
    ours, theirs = (F.normalize(x.flatten(1) @ x.flatten(1).T, dim=1, eps=1e-12) for x in (student, teacher))
    return (ours - theirs).square().mean(dim=1)


def discriminator_loss(*, of_student: PerExample, of_teacher: PerExample) -> PerExample:
    """−log D(teacher) − log(1 − D(student)) of logits: what the discriminator lowers (Goodfellow et al. 2014, eq.
    1).
    """
    return F.softplus(-of_teacher) + F.softplus(of_student)


def fooling(of_student: PerExample) -> PerExample:
    """−log D(student) of logits: what a student lowers that wants to be taken for its teacher (Goodfellow et al. 2014,
    section 3).
    """
    return F.softplus(-of_student)


def value_gap(teacher: Values) -> PerExample:
    """max_a Q − min_a Q: how much the choice of action matters in a state (VIPER, Bastani et al. 2018)."""
    return teacher.amax(dim=1) - teacher.amin(dim=1)


def _standardise(values: Values) -> Values:
    """Centred values divided by their standard deviation over actions."""
    centred = centre(values)
    return centred / centred.square().mean(dim=1, keepdim=True).clamp_min(1e-12).sqrt()


def _distances(x: Float[Tensor, "B D"]) -> Float[Tensor, "B B"]:
    """Euclidean distances of all pairs; exactly 0, and without gradient, on the diagonal."""
    return torch.cdist(x, x) * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))


def _mean_one(distances: Float[Tensor, "B B"]) -> Float[Tensor, "B B"]:
    """Distances in units of the mean of those above 0."""
    above = distances > 0
    return distances / (distances.sum() / above.sum().clamp_min(1)).clamp_min(1e-12)


def _cosines(x: Float[Tensor, "B D"], neighbours: int) -> Tensor:
    """Cosines (B, K, K) between the directions from each example to the K next ones."""
    others = (
        torch.stack([x.roll(-k, 0) for k in range(1, neighbours + 1)], dim=1)
        if neighbours > 0
        else x.new_zeros(len(x), 0, x.shape[1])
    )
    ways = others - x.unsqueeze(1)
    square = ways.square().sum(dim=2, keepdim=True)
    # examples that are alike but for rounding lie in no direction from each other
    apart = square > SAME**2 * x.detach().square().sum(dim=1).mean()
    directions = torch.where(apart, ways, 0.0) / torch.where(apart, square, 1.0).sqrt()
    return directions @ directions.transpose(1, 2)


def _standardise_columns(x: Values) -> Values:
    """Each column minus its mean over the batch, divided by its standard deviation."""
    centred = x - x.mean(dim=0, keepdim=True)
    return centred / centred.square().mean(dim=0, keepdim=True).clamp_min(1e-12).sqrt()


def _weighted_sum(weight: Values, value: Values) -> PerExample:
    """Σ_a weight · value with 0 · ±inf = 0, so that a probability that underflows costs nothing."""
    return torch.where(weight > 0, weight * value, torch.zeros_like(weight)).sum(dim=1)
