"""Taps, projectors, and students that start from or end in their teacher's weights."""

import copy
from dataclasses import replace

import instances
import pytest
import torch
from conftest import SIGN
from test_train import small

from distilrl.checkpoints import load_network, save_network
from distilrl.config import OptimConfig, StudentConfig, TaskFile
from distilrl.envs import describe_env
from distilrl.errors import SpecError
from distilrl.features import FeatureMaps, Projector, Taps, Wanted, pair, points, start_from
from distilrl.heads import student_head
from distilrl.jobs import try_student
from distilrl.learner import Learner, make_pupils
from distilrl.networks import build, build_shared, reuse_head
from distilrl.objective import term
from distilrl.recipes import recipe
from distilrl.runs import RunFolder
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.tasks import make_tasks
from distilrl.teachers import Teacher
from distilrl.train import _Run, train
from distilrl.widths import scaled

PIXELS = (4, 84, 84)


def net(hidden=(8,), convs=(), obs=(2,), actions=2, seed=0, **more):
    return build(NetworkSpec(obs, actions, convs=convs, hidden=hidden, **more), torch.Generator().manual_seed(seed))


def cnn(widths, hidden, seed=0):
    kernels = ((8, 4), (4, 2), (3, 1))
    return net((hidden,), tuple((c, *k) for c, k in zip(widths, kernels, strict=True)), PIXELS, 6, seed)


def test_taps_see_what_layers_give_and_leave_nothing_behind():
    network = net((8, 5))
    obs = torch.randn(3, 2)
    with Taps(network, ["layers.1", "layers.3"]) as taps:
        network(obs)
    assert (taps["layers.1"].shape, taps["layers.3"].shape) == ((3, 8), (3, 5))
    torch.testing.assert_close(network.layers[4](taps["layers.3"]), network(obs))
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(SpecError, match=r"layers\.9"):
        Taps(network, ["layers.9"])


@pytest.mark.parametrize(
    ("taps", "pairs"),
    [
        ("last", [("layers.8", "layers.8")]),
        ("middle", [("layers.3", "layers.3")]),
        (
            "all",
            [("layers.1", "layers.1"), ("layers.3", "layers.3"), ("layers.5", "layers.5"), ("layers.8", "layers.8")],
        ),
        ("layers.1=layers.5", [("layers.1", "layers.5")]),
    ],
)
def test_pairs_by_depth_and_shape(taps, pairs):
    assert pair(cnn((4, 4, 4), 8), cnn((8, 8, 8), 16), torch.zeros(1, *PIXELS), Wanted(taps)) == pairs


def test_maps_alone_are_paired_where_maps_are_compared():
    obs = torch.zeros(1, *PIXELS)
    maps = [("layers.1", "layers.1"), ("layers.3", "layers.3"), ("layers.5", "layers.5")]
    for taps, pairs in (("all", maps), ("last", maps[-1:]), ("middle", maps[1:2])):
        assert pair(cnn((4, 4, 4), 8), cnn((8, 8, 8), 16), obs, Wanted(taps, maps=True)) == pairs
    with pytest.raises(SpecError, match="of which the student or its teacher has none"):
        pair(net((8,)), net((16,)), torch.zeros(1, 2), Wanted("all", maps=True))
    named = [Wanted("layers.8=layers.8", maps=True)]
    with pytest.raises(SpecError, match=r"which 'layers\.8=layers\.8' are not"):
        FeatureMaps(named, [], cnn((4, 4, 4), 8), cnn((8, 8, 8), 16), obs, torch.Generator())


def test_pairs_of_networks_of_unequal_depth():
    student, teacher = net((8,)), net((16, 16, 16))
    assert pair(student, teacher, torch.zeros(1, 2), Wanted("all")) == [("layers.1", "layers.5")]
    assert list(points(teacher, torch.zeros(1, 2)).values()) == [(16,)] * 3
    with pytest.raises(SpecError, match="hidden layer"):
        pair(net(()), teacher, torch.zeros(1, 2), Wanted("last"))
    with pytest.raises(SpecError, match="Unknown taps"):
        pair(student, teacher, torch.zeros(1, 2), Wanted("first"))


@pytest.mark.parametrize(
    ("ours", "theirs"), [((4,), (7,)), ((4, 9, 9), (8, 6, 5)), ((4, 9, 9), (12,)), ((5,), (2, 3, 3)), ((5,), (5,))]
)
def test_projectors_give_the_teachers_shape(ours, theirs):
    projector = Projector(ours, theirs, torch.Generator().manual_seed(0))
    assert projector(torch.randn(2, *ours)).shape == (2, *theirs)
    assert (len(list(projector.parameters())) == 0) == (ours == theirs)


def test_teacher_features_come_in_units_of_their_size():
    student, teacher = net((8,)), net((16,), seed=1)
    maps = FeatureMaps(
        [Wanted("last")], [Wanted("last")], student, teacher, torch.zeros(1, 2), torch.Generator().manual_seed(0)
    )
    obs = torch.randn(50, 2) * 100
    maps.measure(obs)
    (features,) = maps.teacher_features(obs).values()
    assert float(features.square().mean()) == pytest.approx(1.0, rel=1e-5)
    assert not any("teacher" in name for name, _ in maps.named_parameters())


def test_what_a_reused_head_reads_is_asked_to_be_what_its_teacher_reads():
    teacher, obs = net((6,), seed=1), torch.randn(50, 2) * 100
    student = copy.deepcopy(teacher)
    reuse_head(student, teacher, torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.layers[-1].projection.weight.copy_(torch.eye(6))
        student.layers[-1].projection.bias.zero_()
    maps = FeatureMaps([Wanted("last")], [Wanted("last")], student, teacher, obs[:1], torch.Generator().manual_seed(0))
    maps.measure(obs)
    with Taps(student, maps.student_paths) as seen:
        torch.testing.assert_close(student(obs), teacher(obs))
    ((ours, theirs),) = maps.compare(Wanted("last"), seen, maps.teacher_features(obs), project=True)
    torch.testing.assert_close(ours, theirs)


def train_briefly(name, teacher, folder=None):
    ref = EnvRef("distilrl/SignEnv-v0")
    settings = {"network": "mlp:8", "env_steps": 480, "learning_starts": 160, "check_every": 240, "check_episodes": 2}
    config = recipe(name, describe_env(ref)).but(tasks=(TaskFile(ref),), batch_size=32, **settings)
    acceptance = instances.acceptance()
    return train(config, teacher, acceptance=acceptance, folder=folder)


@pytest.mark.parametrize(
    "name", ["fitnets", "hints", "relational", "similarity", "actor_mimic", "reused_head", "discriminator"]
)
def test_nothing_beside_the_student_ships(sign_teacher, tmp_path, name):
    train_briefly(name, sign_teacher, RunFolder(tmp_path / "run"))
    shipped = load_network(tmp_path / "run" / "student").network
    assert sum(p.numel() for p in shipped.parameters()) == shipped.spec.params == 2 * 8 + 8 + 8 * 2 + 2


def test_a_reused_head_is_the_teachers_and_folds():
    student, teacher, obs = net((8,)), net((4,), seed=1), torch.randn(20, 2)
    reuse_head(student, teacher, torch.Generator().manual_seed(0))
    head = student.layers[-1]
    assert [name for name, _ in head.named_parameters()] == ["projection.weight", "projection.bias"], (
        "the teacher's part is frozen"
    )
    torch.testing.assert_close(head.weight, teacher.layers[-1].weight)
    before = student(obs)
    student.scale_head(3.0)
    student.fold()
    torch.testing.assert_close(student(obs), 3 * before)
    assert sum(p.numel() for p in student.parameters()) == student.spec.params
    assert points(net((8,)), obs[:1]).keys() == {"layers.1"}


def test_a_student_of_the_same_shape_starts_as_its_teacher():
    obs = torch.randn(40, 2) * torch.tensor([1.0, 50.0])
    for how in ("svd", "strongest"):
        teacher, student = net((8,), seed=1), net((8,), seed=2)
        student.standardise(torch.tensor([0.3, 20.0]), torch.tensor([2.0, 0.02]))
        assert start_from(student, teacher, how) == ["layers.0", "layers.2"]
        if how == "strongest":
            torch.testing.assert_close(student(obs), teacher(obs), rtol=1e-4, atol=1e-4)


def test_svd_is_exact_where_layers_are_linear():
    teacher, student = net(()), net(())
    student.standardise(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.1]))
    start_from(student, teacher, "svd", head_factor=4.0)
    obs = torch.randn(10, 2)
    torch.testing.assert_close(student(obs), 4.0 * teacher(obs), rtol=1e-4, atol=1e-4)


def test_strongest_keeps_what_a_wide_teacher_does_with_few_units():
    teacher = net((32,), seed=1)
    with torch.no_grad():
        teacher.layers[2].weight[:, 6:] = 0.0  # only six units say anything
    student = net((6,), seed=2)
    start_from(student, teacher, "strongest")
    obs = torch.randn(40, 2)
    torch.testing.assert_close(student(obs), teacher(obs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["svd", "strongest"])
def test_projection_goes_through_convolutions(how):
    teacher, student = cnn((8, 8, 8), 32, 1), cnn((8, 8, 8), 32, 2)
    assert len(start_from(student, teacher, how)) == 5
    if how == "strongest":
        obs = torch.randint(0, 256, (3, *PIXELS), dtype=torch.uint8)
        torch.testing.assert_close(student(obs), teacher(obs), rtol=1e-3, atol=1e-3)
    assert len(start_from(cnn((4, 4, 4), 8, 2), teacher, how)) == 5
    other = net((8,), ((4, 8, 4), (4, 3, 2)), PIXELS, 6)
    assert start_from(other, teacher, how) == ["layers.0"]
    with pytest.raises(SpecError, match="first layer"):
        start_from(net((8,), ((4, 7, 4),), PIXELS, 6), teacher, how)
    with pytest.raises(SpecError, match="plain convolutions"):
        start_from(student, torch.nn.Linear(2, 2), how)


def gaussian_teacher(hidden=(8,), obs=(2,), actions=3):
    """A policy of 2 A numbers, the mean first, and a narrower student of the same layers."""
    return net(hidden, obs=obs, actions=2 * actions, seed=1), net(hidden, obs=obs, actions=actions, seed=2)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 8)])
def test_a_student_starts_from_the_mean_of_a_gaussian(hidden):
    teacher, student = gaussian_teacher(hidden)
    student.standardise(torch.tensor([0.3, 20.0]), torch.tensor([2.0, 0.02]))
    start_from(student, teacher, "strongest")
    obs = torch.randn(40, 2)
    torch.testing.assert_close(student(obs), teacher(obs)[:, :3], rtol=1e-4, atol=1e-4)


def test_a_reused_head_of_a_gaussian_is_its_mean():
    teacher, student = gaussian_teacher()
    reuse_head(student, teacher, torch.Generator().manual_seed(0))
    torch.testing.assert_close(student.layers[-1].weight, teacher.layers[-1].weight[:3])
    assert student(torch.randn(5, 2)).shape == (5, 3)
    with pytest.raises(SpecError, match="head to reuse"):
        reuse_head(teacher, student, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", ["svd", "strongest"])
@pytest.mark.parametrize("theirs", [(), (16,), (16, 16)])
@pytest.mark.parametrize("ours", [(8,), (8, 8)])
def test_a_dueling_student_starts_as_far_as_layers_are_alike(how, ours, theirs):
    teacher, student, obs = net(theirs, seed=1), net(ours, dueling=True), torch.randn(20, 2)
    if not theirs:
        with pytest.raises(SpecError, match="first layer"):
            start_from(student, teacher, how)
        return
    done = start_from(student, teacher, how)
    assert len(done) == len(ours) + (len(ours) == len(theirs)) - (len(ours) > len(theirs))
    assert torch.isfinite(student(obs)).all()


def test_heads_of_two_parts_need_a_layer_before_them():
    with pytest.raises(SpecError, match="dueling head needs a layer before it"):
        net((), dueling=True)
    with pytest.raises(SpecError, match="linear student has no layer before"):
        reuse_head(net(()), net((4,)), torch.Generator())


def test_a_dueling_student_of_the_same_layers_starts_as_its_teacher():
    teacher, student, obs = net((8,), seed=1), net((8,), seed=2, dueling=True), torch.randn(40, 2)
    start_from(student, teacher, "strongest", head_factor=3.0)
    torch.testing.assert_close(student(obs), 3 * teacher(obs), rtol=1e-4, atol=1e-4)
    student.fold()
    torch.testing.assert_close(student(obs), 3 * teacher(obs), rtol=1e-4, atol=1e-4)


def test_a_student_with_a_reused_head_starts_from_the_layers_before_it():
    teacher, student = net((8,), seed=1), net((8,), seed=2)
    reuse_head(student, teacher, torch.Generator().manual_seed(0))
    assert start_from(student, teacher, "strongest") == ["layers.0"]
    torch.testing.assert_close(student.layers[0].weight, teacher.layers[0].weight)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_an_image_beside_a_vector_starts_too(hidden):
    spec = NetworkSpec((3 + 64,), 2, convs=((4, 3, 2),), hidden=hidden, image=(1, 8, 8))
    teacher, student = (build(spec, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    student.standardise(torch.tensor([0.3, 20.0, 0.0, 5.0]), torch.tensor([2.0, 0.02, 1.0, 0.5]))
    assert len(start_from(student, teacher, "strongest")) == 2 + len(hidden)
    obs = torch.randn(40, 67)
    torch.testing.assert_close(student(obs), teacher(obs), rtol=1e-3, atol=1e-3)


def test_a_start_reads_what_both_see():
    teacher, student = net((8,), obs=(4,), unseen=(0,), seed=1), net((8,), obs=(4,), unseen=(0, 2), seed=2)
    assert start_from(student, teacher, "strongest") == ["layers.0", "layers.2"]
    obs = torch.randn(40, 4)
    obs[:, 2] = 0.0
    torch.testing.assert_close(student(obs), teacher(obs))
    with pytest.raises(SpecError, match="sees numbers that its teacher does not"):
        start_from(net((8,), obs=(4,), unseen=(3,)), teacher, "strongest")


@pytest.mark.parametrize("text", ["mlp:8+gru:4", "gru:8", "mlp:8@history=3"])
def test_nothing_starts_from_a_teacher_with_memory(text):
    spec = NetworkSpec.parse(text, (4,), 2)
    with pytest.raises(SpecError, match="memory"):
        start_from(net((8,), obs=(4,)), build(spec), "svd")


def test_layers_that_were_not_set_stay_as_they_were_drawn():
    image = {"hidden": (8,), "image": (1, 16, 16)}
    student = build(NetworkSpec((3 + 256,), 2, convs=((4, 3, 2), (4, 3, 2)), **image), torch.Generator().manual_seed(2))
    teacher = build(NetworkSpec((3 + 256,), 2, convs=((4, 3, 2),), **image), torch.Generator().manual_seed(1))
    student.standardise(torch.zeros(4), torch.tensor([1e-3, 1.0, 1.0, 1.0]))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert start_from(student, teacher, "strongest") == ["layers.0"]
    assert [name for name, value in student.state_dict().items() if (value != before[name]).any()] == [
        "layers.0.weight"
    ]


@pytest.mark.parametrize("spread", [0.01, 100.0])
def test_units_that_the_teacher_has_none_for_stay_as_they_were_drawn(spread):
    """Written for standardised observations, as all that is drawn is, whatever these observations vary by."""
    teacher = build(NetworkSpec((3,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    student = build(NetworkSpec((3,), 2, hidden=(32,)), torch.Generator().manual_seed(1))
    student.standardise(torch.full((3,), 5 * spread), torch.full((3,), 1 / spread))
    drawn = {name: one.detach().clone() for name, one in student.layers[0].named_parameters()}
    start_from(student, teacher, "strongest")
    kept = [torch.equal(student.layers[0].weight[unit], drawn["weight"][unit]) for unit in range(32)]
    assert sum(kept) == 24
    obs = 5 * spread + spread * torch.randn(200, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs, ours = teacher.layers[0](obs), student.layers[0]((obs - student.obs_mean) * student.obs_scale)
    found = ours[:, [unit for unit, same in enumerate(kept) if not same]]
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_a_network_in_training_is_saved_with_its_head_folded(tmp_path):
    obs, teacher = torch.randn(20, 2), net((4,), seed=1)
    for dueling in (False, True):
        student = net((8,), dueling=dueling)
        student.standardise(torch.tensor([0.3, 20.0]), torch.tensor([2.0, 0.02]))
        if not dueling:
            reuse_head(student, teacher, torch.Generator().manual_seed(0))
        save_network(tmp_path / str(dueling), student, student_head(Choices((2,))))
        torch.testing.assert_close(
            load_network(tmp_path / str(dueling)).network(obs), student(obs), rtol=1e-4, atol=1e-4
        )
        assert student.spec.dueling == dueling


def test_shared_networks_share_their_body():
    specs = [NetworkSpec((4,), 2, hidden=(8, 6)), NetworkSpec((6,), 3, hidden=(8, 6))]
    one, two = build_shared(specs, torch.Generator().manual_seed(0))
    assert one.layers[2] is two.layers[2]
    assert one.layers[0] is not two.layers[0]
    assert one.layers[4].weight.shape != two.layers[4].weight.shape
    same = build_shared([NetworkSpec(PIXELS, 6, convs=((4, 8, 4),)), NetworkSpec(PIXELS, 4, convs=((4, 8, 4),))])
    assert same[0].layers[0] is same[1].layers[0]
    with pytest.raises(SpecError, match="share a body"):
        build_shared([specs[0], same[0].spec])
    shapes = [NetworkSpec(PIXELS, actions, convs=((4, 8, 4), (4, 4, 2)), hidden=(8,)) for actions in (6, 4)]
    for share, common in (("body", [0, 1, 2, 3, 4, 5, 6]), ("convolutions", [0, 1, 2, 3])):
        one, two = build_shared(shapes, share=share)
        assert [
            index for index, pair in enumerate(zip(one.layers, two.layers, strict=True)) if pair[0] is pair[1]
        ] == common
    with pytest.raises(SpecError, match="no convolutions"):
        build_shared(specs, share="convolutions")


def test_images_of_unequal_sizes_share_all_but_the_layer_behind_them():
    specs = [NetworkSpec((1, size, size), 2, convs=((4, 3, 2), (4, 3, 2)), hidden=(8, 8)) for size in (20, 40)]
    one, two = build_shared(specs, torch.Generator().manual_seed(0))
    common = [index for index, both in enumerate(zip(one.layers, two.layers, strict=True)) if both[0] is both[1]]
    assert {2, 7} <= set(common)
    assert not {0, 5, 9} & set(common)
    for network, size in ((one, 20), (two, 40)):
        assert network(torch.zeros(3, 1, size, size)).shape == (3, 2)


def test_scaled_hits_the_size_asked_for():
    spec = NetworkSpec((4,), 2, hidden=(16, 16))
    for params in (100, 386, 5000, 67586):
        assert abs(scaled(spec, params).params / params - 1) < 0.15
    pixels = NetworkSpec(PIXELS, 6, convs=((16, 8, 4), (16, 4, 2), (16, 3, 1)), hidden=(64,))
    assert abs(scaled(pixels, 300_000).params / 300_000 - 1) < 0.05


def test_feature_terms_need_a_teacher_that_can_be_tapped():
    rule = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), 2)
    with pytest.raises(SpecError, match="can be tapped: give a teacher of PyTorch's modules, or take a recipe without"):
        train_briefly("hints", rule)
    with pytest.raises(SpecError, match="plain layers"):
        train_briefly("reused_head", rule)


def begun(config, teacher, initial=None):
    """A run that has looked at its first states, and its task."""
    run = _Run(config, make_tasks(config, teacher, None, initial, None), lambda _: None)
    while run.env_steps < 200:
        run.collect()
    run.tasks[0].look_at_first_states()
    return run, run.tasks[0]


SCALES = {
    "distil": True,
    "regression": True,
    "kickstarting": False,
    "qdagger": False,
    "dqfd": False,
    "case_study": False,
}


@pytest.mark.parametrize(("name", "tempered"), SCALES.items())
def test_a_start_has_the_scale_of_what_it_learns(name, tempered):
    """Numbers that are compared with Q/τ start as Q/τ, action values as they are."""
    network = net((8, 8), seed=1)
    with torch.no_grad():
        network.layers[-1].weight.mul_(10)
        network.layers[-1].bias.fill_(50.0)
    teacher = Teacher(network.eval(), "q", "known", "memory", "0" * 64).fitted(describe_env(SIGN))
    config = small(name, network="mlp:8,8", start="strongest")
    run, task = begun(config, teacher)
    obs = torch.randn(20, 2)
    with torch.no_grad():
        ratio = task.pupil.student(obs) / network(obs)
    assert abs(task.pupil.temperature - 1) > 0.1
    expected = torch.full_like(ratio, 1 / task.pupil.temperature if tempered else 1.0)
    torch.testing.assert_close(ratio, expected, rtol=1e-2, atol=1e-2)
    run.close()


def test_a_temperature_of_a_terms_own_is_that_of_start_and_ship():
    """The textbook's 0.01, and a regression at another than was found, whose values then ship as the teacher's are."""
    network = net((8, 8), seed=1)
    with torch.no_grad():
        network.layers[-1].weight.mul_(10)
    teacher = Teacher(network.eval(), "q", "known", "memory", "0" * 64).fitted(describe_env(SIGN))
    run, task = begun(small("policy_distillation", network="mlp:8,8", start="strongest"), teacher)
    obs = torch.randn(20, 2)
    with torch.no_grad():
        torch.testing.assert_close(task.pupil.student(obs), 100 * network(obs), rtol=1e-2, atol=1e-2)
    run.close()
    config = small("regression", network="mlp:8")
    (regression,) = config.terms
    run, task = begun(config.but(terms=(replace(regression, teacher_temperature=5.0),)), teacher)
    task.keep(0)
    with torch.no_grad():
        torch.testing.assert_close(task.best_network()(obs), 5 * task.pupil.average(obs), rtol=1e-3, atol=1e-3)
    run.close()


@pytest.mark.parametrize(("name", "changes"), [("distil", {}), ("regression", {}), ("dqfd", {"dueling": True})])
def test_a_run_from_a_network_starts_as_it_is(sign_teacher, name, changes):
    config = small(name, network="mlp:8", **changes)
    initial = net((8,), seed=5)
    run, task = begun(config, sign_teacher, initial)
    obs = torch.randn(20, 2)
    task.keep(0)  # as it ships
    torch.testing.assert_close(task.best_network()(obs), initial(obs), rtol=1e-3, atol=1e-3)
    run.close()
    for other, how in ((net((9,)), {}), (initial, {"reused_head": True})):
        with pytest.raises(SpecError, match="'initial' must be what the student is"):
            make_tasks(small("distil", network="mlp:8", **how), sign_teacher, None, other, None)
    pruned = small("distil", network="mlp:4", prune_from="mlp:8")
    assert make_tasks(pruned, sign_teacher, None, initial, None)[0].initial is initial
    with pytest.raises(SpecError, match="'initial' must be what the student is, mlp:8"):
        make_tasks(pruned, sign_teacher, None, net((4,)), None)


@pytest.mark.parametrize(
    ("env", "network", "wide", "more"),
    [("CartPole-v1", "mlp:4", "mlp:16", {"hidden_features": (1,)}), ("CartPole-v1", "mlp:4", "mlp:16", {})],
)
def test_a_student_is_pruned_whatever_it_sees(env, network, wide, more):
    teacher = Teacher(net((8,), obs=(4,)).eval(), "q", "x", "memory", "0" * 64).fitted(describe_env(env))
    config = small(env=env, network=network, prune_from=wide, check_episodes=2, env_steps=800, gap=-10.0, **more)
    assert train(config, teacher).network.spec.hidden == (4,)


@pytest.mark.parametrize("how", [{}, {"reused_head": True}, {"dueling": True}])
def test_parameters_of_several_students_are_those_that_ship(how):
    specs = [NetworkSpec((d,), d, hidden=(16,), dueling="dueling" in how) for d in (2, 3)]
    heads = [student_head(Choices((spec.outputs,))) for spec in specs]
    nets = [net((64, 64), obs=spec.obs_shape, actions=spec.outputs) for spec in specs]
    teachers = [
        Teacher(one, "q", "x", "memory", "0" * 64, action=head.action) for one, head in zip(nets, heads, strict=True)
    ]
    config, terms = StudentConfig("mlp:16", **how), (term("forward_kl"),)
    made = make_pupils(specs, heads, teachers, terms, config, torch.Generator(), torch.device("cpu"))
    known = Learner(made, terms, OptimConfig())
    ships = [copy.deepcopy(pupil.average) for pupil in made]
    for one in ships:
        one.fold()
    assert known.params == sum(p.numel() for one in ships for p in one.parameters()) == 3 * 16 + 4 * 16 + 17 * 5


def test_what_cannot_be_pruned_is_refused_before_a_step():
    info = describe_env("PongNoFrameskip-v4")
    teacher = Teacher(build(NetworkSpec.of("cnn:4k8s4:8", info.obs, 6)), "q", "x", "memory", "0" * 64).fitted(info)
    config = small(env="PongNoFrameskip-v4", network="resnet:2:4", prune_from="resnet:4:8")
    with pytest.raises(SpecError, match="plain convolutions"):
        try_student(config, [teacher])
