"""What a student sees otherwise than its teacher: through noise, late, with observations that are lost or black."""

import json
import re

import gymnasium
import numpy as np
import pytest
import torch
from conftest import SIGN, Killed, killed_after, sign_network
from test_actions import cut_and_whole
from test_memory import HEAD, accepted, memory_config
from test_policies import RECALL, recalling
from test_train import ACCEPTANCE, small, without_clock
from torch import nn

from distilrl.animate import side_by_side
from distilrl.checkpoints import read_tensors, save_network, save_tensors
from distilrl.cli import main
from distilrl.comparison import Comparison, in_words
from distilrl.config import TrainConfig
from distilrl.context import Context
from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import SpecError
from distilrl.evaluate import play
from distilrl.features import FeatureMaps
from distilrl.heads import head_for
from distilrl.jobs import Job, make_config
from distilrl.networks import build
from distilrl.policies import Policy
from distilrl.replay import Replay, ReplaySpec
from distilrl.runs import RunFolder
from distilrl.schedules import START
from distilrl.sensors import Feed, Sensors
from distilrl.spaces import Choices, EnvRef, ObsSpec
from distilrl.tasks import make_tasks
from distilrl.teachers import Teacher
from distilrl.teaching import evaluate_against, evaluate_policy
from distilrl.train import train


class LampEnv(gymnasium.Env):
    """A picture, bright or dim for the whole episode of ten steps; action 1 pays 1 where it is bright, 0 where not."""

    observation_space = gymnasium.spaces.Box(0, 255, (1, 6, 6), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bright, self.steps = bool(self.np_random.integers(2)), 0
        return self._observe(), {}

    def _observe(self):
        return np.full((1, 6, 6), 200 if self.bright else 50, np.uint8)

    def step(self, action):
        self.steps += 1
        return self._observe(), float(self.bright == bool(action)), self.steps >= 10, False, {}


LAMP = "distilrl/LampEnv-v0"
if LAMP not in gymnasium.registry:
    gymnasium.register(LAMP, entry_point=LampEnv, max_episode_steps=50)


def fed(sensors, steps=40, seed=0):
    """What one episode of observations (t, 10 t) shows, and what there was."""
    feed = Feed(sensors, [seed])
    there = np.stack([np.arange(steps), 10 * np.arange(steps)], axis=1).astype(np.float32)
    return np.concatenate([feed.see(one[None], np.array([0])) for one in there]), there


def test_exact_sensors_show_what_is_there():
    seen, there = fed(Sensors())
    assert np.array_equal(seen, there)
    assert Sensors().exact
    assert not Sensors(delay=1).exact


@pytest.mark.parametrize("delay", [1, 3])
def test_what_is_late_is_of_that_many_steps_before(delay):
    seen, there = fed(Sensors(delay=delay))
    assert np.array_equal(seen[delay:], there[:-delay])
    assert np.array_equal(seen[:delay], there[:1].repeat(delay, 0))


def test_what_is_lost_is_seen_again():
    seen, there = fed(Sensors(dropout=0.5), 2000)
    lost = seen[:, 0] != there[:, 0]
    assert 0.45 < lost.mean() < 0.55
    assert np.array_equal(seen[1:][lost[1:]], seen[:-1][lost[1:]])


@pytest.mark.parametrize("noise", [-1.0, 1e39, float("nan")])
def test_noise_is_a_number_that_an_observation_can_hold(noise):
    with pytest.raises(SpecError, match=r"'noise' must lie in \[0, 1e30\], got"):
        Sensors(noise=(noise, 0.0))


def test_noise_of_nothing_is_none():
    """The first of a study over noise was called noisy."""
    assert Sensors(noise=(0.0, 0.0)) == Sensors()
    assert Sensors(noise=(0.0, 0.0)).exact


def test_noise_is_as_wide_as_it_says():
    seen, there = fed(Sensors(noise=(0.5, 0.0)), 4000)
    assert np.std(seen[:, 0] - there[:, 0]) == pytest.approx(0.5, rel=0.05)
    assert np.array_equal(seen[:, 1], there[:, 1])


def test_an_episode_forgets_the_one_before_and_knows_nothing_of_others():
    feed, which = Feed(Sensors(delay=2), range(3)), np.arange(3)
    for step in range(5):
        feed.see(np.full((3, 1), step, np.float32), which)
    feed.restart(np.array([False, True, False]))
    seen = feed.see(np.array([[5.0], [100.0], [5.0]], np.float32), which)
    assert seen.tolist() == [[3.0], [100.0], [3.0]]
    assert feed.see(np.array([[6.0]], np.float32), np.array([2])).tolist() == [[4.0]]


def sequences(replay, index):
    """The steps of the sequences that a batch of these states has by the same generator."""
    return replay._sequences(index, torch.Generator().manual_seed(1))[0]


@pytest.mark.parametrize(("history", "sequence"), [(1, 1), (3, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_replay_shows_what_the_feed_would(history, sequence, dropout):
    """Late by the delay and by as many as were lost, one after the other, and never of another episode."""
    spec = ReplaySpec(
        200,
        2,
        ObsSpec((3,)),
        Choices((2,)),
        history=history,
        sequence=sequence,
        burn_in=1,
        sensors=Sensors(delay=2, dropout=dropout),
    )
    replay, step, episode = Replay(spec, torch.device("cpu")), 0, 0
    for _ in range(130):
        obs = torch.tensor([[env, episode, step] for env in range(2)], dtype=torch.float32)
        ended = torch.full((2,), step == 9)
        replay.add(obs, torch.zeros(2, 1), torch.zeros(2), ended, torch.zeros(2, dtype=torch.bool))
        step, episode = (0, episode + 1) if step == 9 else (step + 1, episode)
    generator = torch.Generator().manual_seed(0)
    index = replay.draw(4_000, generator)
    exact = Replay.observations(replay, sequences(replay, index) if sequence > 1 else index)
    batch = replay.batch(index, 1.0, torch.Generator().manual_seed(1))
    there, seen = (one.view(len(batch.obs), history, 3) for one in (exact, batch.obs))
    assert torch.equal(there[:, :, :2], seen[:, :, :2])
    late = there[:, :, 2] - seen[:, :, 2]
    whole = there[:, :, 2] >= 2
    if dropout == 0.0:
        assert (late[whole] == 2).all()
    else:
        assert late[there[:, :, 2] >= 9].min() == 2
        assert late[there[:, :, 2] >= 9].float().mean() == pytest.approx(2 + 0.4 / 0.6, abs=0.15)
    if history > 1:  # never back in time
        assert (seen[:, 1:, 2] >= seen[:, :-1, 2]).all()


def test_a_student_that_sees_late_has_what_its_teacher_must_remember():
    """The answer is the sign of the number before: a delay of one step brings it to a student without memory."""
    teacher = recalling()
    acceptance = accepted(teacher)
    found = train(memory_config("mlp:8", delay=1), teacher, acceptance=acceptance)
    assert max(row["score"] for row in found.history) > 0.7
    exact = play(found.policy, Play(RECALL), range(10_000, 10_050)).returns.mean()
    late = play(found.policy, Play(RECALL, sensors=Sensors(delay=1)), range(10_000, 10_050)).returns.mean()
    assert late > exact + 1.0


@pytest.mark.parametrize(("network", "moment"), [("mlp:8", 1), ("mlp:8", 99), ("gru:4", 65)])
def test_a_resumed_run_sees_what_it_would_have_seen(sign_teacher, network, moment, tmp_path):
    config = small(gap=-1.0, env_steps=800, check_every=200, noise=(0.1, 0.1), delay=1, dropout=0.3)
    config = config.but(network=network, batch_size=128, sequence=8, burn_in=2, updates=1)
    whole = train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "whole"))
    with pytest.raises(Killed):
        train(
            config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"),
            watch=killed_after(8 * moment),
        )  # fmt: skip
    resumed = train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"))
    one, other = (tmp_path / name / "student/student.safetensors" for name in ("cut", "whole"))
    assert one.read_bytes() == other.read_bytes()
    assert without_clock(resumed) == without_clock(whole)


def test_the_verdict_says_through_what_the_student_saw(sign_teacher, tmp_path):
    job = Job(small("distil", env_steps=800, delay=1, dropout=0.1), Comparison(60, 60, 0))
    result = distill(sign_teacher, job, tmp_path / "run", report=False)
    assert result.verdict.protocol == "observations 1 step late, lost observations (0.1)"
    assert result.student.return_mean < 7 < result.teacher.return_mean, "what is late here says nothing"
    info = describe_env(SIGN)
    assert in_words(Play(EnvRef(SIGN), sensors=Sensors((1.0, 1.0), 2)), info) == (
        "noisy observations (1), observations 2 steps late"
    )


def test_a_run_is_evaluated_as_its_verdict_was(sign_teacher, tmp_path, capsys):
    """It was shown what is there: a verdict of another student than the one that ships."""
    job = Job(small("distil", env_steps=800, delay=1), Comparison(60, 60, 0))
    result = distill(sign_teacher, job, tmp_path / "run", report=False)
    save_network(tmp_path / "teacher", sign_network(), head_for(Choices((2,)), "q"), name="teacher")
    words = ["evaluate", str(tmp_path / "run"), "--env", SIGN, "--episodes", "60"]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["return_mean"] == result.student.return_mean
    assert "sees as in its run: observations 1 step late" in " ".join(err.split())
    within = ["evaluate", str(tmp_path / "run" / "student"), *words[2:], "--json"]
    assert main(within) == 0, "its folder within the run is the same student"
    assert json.loads(capsys.readouterr().out)["return_mean"] == result.student.return_mean
    for one in (within[:-1], words):
        assert main([*one, "--against", str(tmp_path / "teacher"), "--json"]) == 1
        out, err = capsys.readouterr()
        assert "The run was asked about these episodes before" in " ".join(err.split())
    # and from Python
    here, held = tmp_path / "run", str(tmp_path / "teacher")
    assert evaluate_policy(here, SIGN, episodes=60).return_mean == result.student.return_mean
    assert evaluate_against(here, held, SIGN, episodes=60).policy.return_mean == result.student.return_mean
    assert (
        evaluate_against(held, here, SIGN, episodes=60, margin_abs=9.0).against.return_mean
        == result.student.return_mean
    )
    duel = json.loads(out)
    assert (duel["policy"]["return_mean"], duel["verdict"]["protocol"]) == (
        result.student.return_mean, "observations 1 step late",
    )  # fmt: skip
    assert duel["against"]["return_mean"] == result.teacher.return_mean


def test_noise_that_the_teacher_sees_too_is_named_apart_from_the_students_own(sign_teacher, tmp_path):
    job = Job(small("distil", env_steps=800, noise=(0.1, 0.1)), Comparison(60, 60, 60))
    result = distill(sign_teacher, job, tmp_path / "run", report=False)
    assert result.verdict.protocol == "noisy observations (0.1)"
    worse = result.disturbed["noise_0.1"].verdict.protocol
    assert re.fullmatch(r"noisy observations \([\d.]+( to [\d.]+)?\), the teacher's too", worse)


@pytest.mark.parametrize(("words", "told"), [
    (["--student-noise", "x"], "--student-noise x: write a number"),
    (["--student-noise", "1,2,3"], "'noise' needs one standard deviation"),
    (["--student-delay", "-1"], "'delay' must"),
    (["--student-dropout", "1"], "'dropout' must"),
    (["--student-flicker", "1"], "'flicker' must"),
    (["--student-flicker", "0.5"], "'flicker' is about an observation that is an image alone"),
    (["--hide", "speed"], "'speed' names no number"),
])  # fmt: skip
def test_wrong_sensors_get_one_sentence(words, told, tmp_path, capsys):
    save_network(tmp_path / "teacher", sign_network(), HEAD, name="teacher")
    command = ["distill", "--teacher", str(tmp_path / "teacher"), "--env", SIGN, "--student", "mlp:4"]
    assert main([*command, "--out", str(tmp_path / "run"), *words]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert told in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sensors", [Sensors(noise=(1.0,)), Sensors(flicker=0.5)], ids=str)
def test_play_refuses_sensors_that_its_observations_have_no_use_for(sensors):
    with pytest.raises(SpecError, match=r"^'(noise|flicker)' .* distilrl/SignEnv-v0 has \(2,\)"):
        play(Policy(sign_network(), HEAD), Play(EnvRef(SIGN), sensors=sensors), range(2))


def test_a_stage_with_reward_sees_what_is_there():
    with pytest.raises(SpecError, match="leave out 'delay', 'dropout' and 'flicker'"):
        small("distil", delay=1).but(reward=small("distil").reward.__class__(env_steps=100))


def test_a_picture_shows_what_the_student_saw():
    """Who sees late does late what it would have done, and the teacher beside it does not."""
    asked = {"teacher": [], "student": []}

    class Recording(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, obs):
            asked[self.name].append(float(obs[0, 2]))
            return torch.cat([-obs[:, 2:3], obs[:, 2:3]], dim=1)

    policies = {name: Policy(Recording(name), HEAD) for name in asked}
    side_by_side(policies, "CartPole-v1", sensors={"student": Sensors(delay=2)}, steps=20, every=10)
    first = asked["teacher"][0]
    assert asked["student"][:3] == [first] * 3
    assert asked["student"][3] != first
    assert asked["teacher"][1] != first


@pytest.mark.parametrize(("history", "sequence", "dropout"), [(1, 1, 0.0), (3, 1, 0.0), (3, 1, 0.5), (2, 4, 0.5)])
def test_what_is_seen_twice_is_seen_alike(history, sequence, dropout):
    """Noise is of the step in which an observation came: one that is lost, or stands for those before an episode, has
    the same again, as it has in play.
    """
    spec = ReplaySpec(
        400,
        2,
        ObsSpec((1,)),
        Choices((2,)),
        history=history,
        sequence=sequence,
        burn_in=0,
        sensors=Sensors((0.01,), dropout=dropout),
    )
    replay, step = Replay(spec, torch.device("cpu")), 0
    for _ in range(150):
        ended = torch.full((2,), step == 9)
        row = torch.full((2, 1), float(step))
        replay.add(row, torch.zeros(2, 1), torch.zeros(2), ended, torch.zeros(2, dtype=torch.bool))
        step = 0 if step == 9 else step + 1
    generator = torch.Generator().manual_seed(0)
    index = replay.draw(300, generator)
    batch = replay.batch(index, 1.0, generator)
    seen = batch.obs.view(-1, sequence, history)
    valid = torch.ones(len(seen), 1).bool() if batch.valid is None else batch.valid.view(-1, sequence) > 0
    there = seen.round()
    assert float((seen - there).abs().max()) < 0.1
    assert float((seen - there)[valid].std()) == pytest.approx(0.01, rel=0.15)
    for later in range(1, history):
        same = valid & (there[:, :, later] == there[:, :, later - 1])
        assert bool(same.any()) == (dropout > 0 or bool((there[:, :, 0] == 0).any()))
        assert torch.equal(seen[:, :, later][same], seen[:, :, later - 1][same])
    for later in range(1, sequence):
        same = valid[:, later] & valid[:, later - 1] & (there[:, later, -1] == there[:, later - 1, -1])
        assert torch.equal(seen[:, later, -1][same], seen[:, later - 1, -1][same])


def test_a_sequence_never_sees_what_came_later():
    """Also at the edge of the ring, where what lies before a state was overwritten."""
    spec = ReplaySpec(
        128, 2, ObsSpec((1,)), Choices((2,)), history=2, sequence=32, burn_in=8, sensors=Sensors(delay=2, dropout=0.4)
    )
    replay = Replay(spec, torch.device("cpu"))
    never = torch.zeros(2, dtype=torch.bool)
    for step in range(500):
        replay.add(torch.full((2, 1), float(step)), torch.zeros(2, 1), torch.zeros(2), never, never)
    generator = torch.Generator().manual_seed(0)
    index = replay.draw(200, generator)
    there = Replay.observations(replay, sequences(replay, index))[:, -1:].view(-1, 32)
    seen = replay.batch(index, 1.0, torch.Generator().manual_seed(1)).obs.view(-1, 32, 2)
    inside = there >= there[:, :1]  # behind the newest, a sequence runs into the oldest
    assert (seen.amax(2) <= there)[inside].all()


def stacks_of(steps, frames=3):
    """Stacks (T, frames, 2, 2) of frames whose pixels say their step, counted from 1; nothing before the first."""
    newest = np.arange(1, steps + 1)[:, None] - np.arange(frames - 1, -1, -1)
    return newest.clip(0).astype(np.uint8)[:, :, None, None].repeat(2, 2).repeat(2, 3)


def black_stay_black(stacks, steps):
    """Stacks (T, frames, ...) of one episode: where a frame is black in one of them, it is in all that have it."""
    for t, stack in zip(steps, stacks, strict=True):
        for u, other in zip(steps, stacks, strict=True):
            for place in range(stack.shape[0]):
                if 0 <= (same := place + t - u) < stack.shape[0]:
                    assert np.array_equal(stack[place], other[same])


def test_a_frame_that_comes_black_stays_so_in_its_stack():
    there = stacks_of(200)
    feed = Feed(Sensors(flicker=0.5), [0], frames=3)
    seen = np.concatenate([feed.see(one[None], np.array([0])) for one in there])
    assert there[10].max() > 0, "what is there is left as it is"
    shown = seen[:, -1, 0, 0] > 0
    assert 0.4 < shown.mean() < 0.6
    assert np.array_equal(seen[shown, -1], there[shown, -1])
    black_stay_black(seen, range(200))
    again = Feed(Sensors(flicker=0.5), [0], frames=3)
    state = again.state()
    for one in there[:50]:
        again.see(one[None], np.array([0]))
    again.load(state)
    assert np.array_equal(np.concatenate([again.see(one[None], np.array([0])) for one in there[:50]]), seen[:50])


def test_images_that_come_late_are_read_back(tmp_path):
    """Of Pong's 32 environments: as text they would be more values than any JSON that is read."""
    feed, which = Feed(Sensors(delay=3, dropout=0.1), range(32)), np.arange(32)
    there = np.random.default_rng(0).integers(0, 256, (9, 32, 4, 84, 84), np.uint8)
    for one in there[:4]:
        feed.see(one, which)
    state = {"tasks": [{"feed": feed.state(), "made": True}]}
    wanted = [feed.see(one, which).copy() for one in there[4:]]
    save_tensors(tmp_path / "state.safetensors", {"a": torch.ones(2)}, state)
    tensors, found = read_tensors(tmp_path / "state.safetensors")
    assert set(tensors) == {"a"}
    assert found["tasks"][0]["made"] is True
    again = Feed(feed.sensors, range(32))
    again.load(found["tasks"][0]["feed"])
    assert all(np.array_equal(again.see(one, which), own) for one, own in zip(there[4:], wanted, strict=True))


@pytest.mark.parametrize(("sequence", "late"), [(1, {}), (4, {}), (4, {"delay": 2}), (4, {"delay": 1, "dropout": 0.3})])
def test_the_replay_shows_black_frames_as_the_feed_does(sequence, late):
    spec = ReplaySpec(
        400,
        2,
        ObsSpec((3, 2, 2), (3, 2, 2), "uint8", 3),
        Choices((2,)),
        sequence=sequence,
        burn_in=1,
        sensors=Sensors(flicker=0.5, **late),
    )
    replay, never = Replay(spec, torch.device("cpu")), torch.zeros(2, dtype=torch.bool)
    for stack in stacks_of(190):
        replay.add(torch.from_numpy(stack[None].repeat(2, 0)), torch.zeros(2, 1), torch.zeros(2), never, never)
    batch = replay.batch(replay.draw(300, torch.Generator().manual_seed(0)), 1.0, torch.Generator().manual_seed(1))
    seen = batch.obs[:, :, 0, 0].view(-1, sequence, 3).long()
    newest = seen[:, :, -1]
    assert float((newest > 0).float().mean()) == pytest.approx(0.5, abs=0.06)
    for own in seen.numpy():
        # the step of each stack follows from any frame that is shown; where none is, there is nothing to hold against
        steps = [max(row[place] + 2 - place for place in range(3) if row[place]) for row in own if row.any()]
        black_stay_black([row[:, None] for row in own if row.any()], steps)


def test_the_next_state_of_a_td_term_is_seen_through_the_same_sensors():
    """Noise and black frames of its own: what is bootstrapped from is what the student will see there."""
    never = torch.zeros(2, dtype=torch.bool)
    spec = ReplaySpec(400, 2, ObsSpec((2,)), Choices((2,)), n_step=1, sensors=Sensors(noise=(0.5, 0.0)))
    replay = Replay(spec, torch.device("cpu"))
    for step in range(190):
        replay.add(torch.full((2, 2), float(step)), torch.zeros(2, 1), torch.zeros(2), never, never)
    index = replay.draw(4_000, torch.Generator().manual_seed(0))
    batch = replay.batch(index, 1.0, torch.Generator().manual_seed(1))
    now, then = batch.obs - replay.observations(index), batch.next_obs - replay.observations(index) - 1
    for noise in (now, then):
        assert noise[:, 0].std() == pytest.approx(0.5, abs=0.02)
        assert noise[:, 1].abs().max() == 0
    assert abs(torch.corrcoef(torch.stack([now[:, 0], then[:, 0]]))[0, 1]) < 0.1
    frames = ObsSpec((3, 2, 2), (3, 2, 2), "uint8", 3)
    replay = Replay(
        ReplaySpec(400, 2, frames, Choices((2,)), n_step=1, sensors=Sensors(flicker=0.5)), torch.device("cpu")
    )
    for stack in stacks_of(190):
        replay.add(torch.from_numpy(stack[None].repeat(2, 0)), torch.zeros(2, 1), torch.zeros(2), never, never)
    batch = replay.batch(replay.draw(300, torch.Generator().manual_seed(0)), 1.0, torch.Generator().manual_seed(1))
    assert (batch.next_obs[:, -1, 0, 0] > 0).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_a_state_and_the_next_one_are_of_one_episode_as_it_is_seen(dropout, n_step):
    """What is seen next is never older than what is seen now, and as old as often as an observation is lost."""
    never, sensors = torch.zeros(2, dtype=torch.bool), Sensors(dropout=dropout, delay=1)
    replay = Replay(
        ReplaySpec(800, 2, ObsSpec((1,)), Choices((2,)), n_step=n_step, sensors=sensors), torch.device("cpu")
    )
    for step in range(390):
        replay.add(torch.full((2, 1), float(step)), torch.zeros(2, 1), torch.zeros(2), never, never)
    batch = replay.batch(replay.draw(8_000, torch.Generator().manual_seed(0)), 1.0, torch.Generator().manual_seed(1))
    later = batch.next_obs - batch.obs
    assert later.min() >= 0
    assert float((later == 0).float().mean()) == pytest.approx(dropout**n_step, abs=0.02)


def test_what_a_history_shares_with_the_next_one_is_seen_alike():
    """Two of three observations, with the noise that they came with; and so in sequences."""
    never = torch.zeros(2, dtype=torch.bool)
    for sequence in (1, 4):
        spec = ReplaySpec(
            400, 2, ObsSpec((1,)), Choices((2,)), n_step=1, history=3, sequence=sequence, burn_in=min(sequence - 1, 1),
            sensors=Sensors(noise=(1.0,)),
        )  # fmt: skip
        replay = Replay(spec, torch.device("cpu"))
        for step in range(190):
            replay.add(torch.full((2, 1), float(step)), torch.zeros(2, 1), torch.zeros(2), never, never)
        drawn = replay.draw(400, torch.Generator().manual_seed(0))
        batch = replay.batch(drawn, 1.0, torch.Generator().manual_seed(1))
        learnt = batch.valid > 0 if batch.valid is not None else torch.ones(len(batch.obs), dtype=torch.bool)
        torch.testing.assert_close(batch.obs[learnt][:, 1:], batch.next_obs[learnt][:, :2])
        newest = batch.next_obs[learnt][:, 2] - batch.obs[learnt][:, 2] - 1
        assert float(newest.std()) == pytest.approx(2**0.5, abs=0.2)


@pytest.mark.parametrize(("network", "least", "most"), [("cnn:4k3s3:8", 6.5, 8.6), ("cnn:4k3s3:8+gru:4", 9.0, 9.9)])
def test_only_who_remembers_answers_in_the_dark(network, least, most):
    """Shown with probability a half, the lamp is known from the first frame that is not black: 9 of 10 steps on the
    average, and 9.5 with a guess; without memory half of the steps are guessed.
    """
    teacher = Teacher.from_callable(lambda obs: (obs[:, 0, 0, 0] > 100).long(), name="lamp")
    config = small("distil", env=LAMP, network=network, flicker=0.5, gap=-20.0, env_steps=2400, learning_rate=1e-2)
    config = config.but(batch_size=128, sequence=8, burn_in=2, check_every=800, final_episodes=40)
    trained = train(config, teacher, acceptance=ACCEPTANCE)
    sees = Play(EnvRef(LAMP), sensors=config.student.sensors)
    assert least < play(trained.policy, sees, range(10_000, 10_100)).returns.mean() < most
    assert play(trained.policy, Play(EnvRef(LAMP)), range(10_000, 10_050)).returns.mean() > 9.8


def test_a_run_through_black_frames_is_resumed(tmp_path):
    teacher = Teacher.from_callable(lambda obs: (obs[:, -1, 0, 0] > 100).long(), name="lamp")
    env = EnvRef(LAMP, stack=3)
    config = small("distil", env=env, network="cnn:2k6s1:4", flicker=0.5, gap=-20.0, env_steps=800, check_every=200)
    cut_and_whole(config, teacher, ACCEPTANCE, tmp_path, 500)


def test_features_of_the_teacher_are_of_what_is_there(sign_teacher):
    """The student sees through its sensors, and its teacher does not: neither in labels nor in features."""
    config = small("hints", network="mlp:4", noise=(0.5, 0.5), delay=1, env_steps=800)
    (task,) = make_tasks(config, sign_teacher, None, None, None)
    for _ in range(20):
        task.collect(START)
    index = task.stream.draw(torch.Generator().manual_seed(0))
    (batch, *_) = task.batches(index, torch.Generator().manual_seed(1))
    torch.testing.assert_close(batch.exact, task.stream.replay.observations(index)[: len(batch.obs)])
    assert not torch.equal(batch.exact, batch.obs)
    network = build(task.spec, torch.Generator().manual_seed(0))
    terms = [term for term in config.terms if term.needs_features]
    taps = [term.wanted for term in terms]
    maps = FeatureMaps(taps, taps, network, task.teacher.network, batch.obs[:1], torch.Generator().manual_seed(0))
    context = Context(terms, batch, network, task.teacher.head, maps=maps)
    ((_, theirs),) = context.features(taps[0], project=True)
    ((_, exact),) = Context(terms, batch._replace(obs=batch.exact), network, task.teacher.head, maps=maps).features(
        taps[0], project=True
    )
    torch.testing.assert_close(theirs, exact)
    task.stream.close()


def test_a_list_from_python_is_what_a_file_gives():
    assert Sensors(noise=[0.1, 0.2]) == Sensors(noise=(0.1, 0.2))
    config = make_config("distil", "CartPole-v1", hidden_features=[1, 3])
    assert config == TrainConfig.from_json(json.loads(json.dumps(config.to_json())))
    with pytest.raises(SpecError, match="'noise' must lie in"):
        Sensors(noise=[0.1, -1.0])


def test_other_play_than_the_verdicts_is_not_said_to_be_of_its_episodes(sign_teacher, tmp_path, capsys):
    distill(sign_teacher, Job(small("distil", env_steps=800), Comparison(60, 60, 0)), tmp_path / "run", report=False)
    save_network(tmp_path / "teacher", sign_network(), head_for(Choices((2,)), "q"), name="teacher")
    words = ["evaluate", str(tmp_path / "run"), "--episodes", "60", "--against", str(tmp_path / "teacher"), "--json"]
    short = ["--env-kwargs", '{"max_episode_steps": 5}']
    for more, said in (([], True), (["--epsilon", "0.2"], False), (short, False), (["--fresh"], False)):
        main([*words, "--env", SIGN, *more])
        assert ("asked about these episodes before" in " ".join(capsys.readouterr().err.split())) == said, more
