"""When are more machines of use? What a round costs here, measured; then 1 to 1,000 collectors, simulated from that.

Usage, from the root of a checkout: python benchmarks/scaling.py [OUT_DIR] [--measured FILE.json]. Writes scaling.json
and scaling.svg. Measured are processor seconds, so that other work on the machine moves them little; with Ray
installed, the round trips, the rate of 1 and 2 collectors, and that of environments that wait on a cluster of three
machines, all of them here. Simulated is the schedule of `distilrl.shards.Rounds`: the order for round r + 1 goes out
when round r begins to be learnt from, and that waits for round r.

Each collector hosts one shard of 32 environments, so that more collectors see more states a round. The learner keeps
its updates per state (one of 64 for each 8 states, the default in Pong), or, "updates fixed", makes 8 a vector step
however many environments there are.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib as mpl
import numpy as np
import torch
from lines import RESULTS, machine

from distilrl import NetworkSpec, Policy, Teacher, build, describe_env, load_teacher, make_config
from distilrl.distributed import RayCollectors
from distilrl.errors import ExtraError, WorkerError
from distilrl.fanout import Place
from distilrl.learner import Learner, Part, make_pupils
from distilrl.schedules import Progress
from distilrl.shards import Block, InProcess
from distilrl.stream import Stream

PONG, STUDENT = "PongNoFrameskip-v4", "cnn:16,16,16:64"
SHARD, STEPS = 32, 8
"""Environments of a shard, and vector steps of a round."""
COUNTS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000]
ASSUMED = {
    "gpu_update_us": 300.0,
    "network_bytes_per_s": 10e9 / 8,
    "latency_s": 0.5e-3,
    "straggling": 0.1,
    "student_us": 50.0,
}
"""Not measured here: an update of 64 on a GPU, the head's network (10 Gb/s), one way to a collector, the standard
deviation of a shard's time as a share of it, and a student's answer for one environment."""


def cpu_seconds(work: Callable[[], object], times: int) -> float:
    """Processor seconds of one call, the least of three runs."""
    work()
    found = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - start) / times)
    return min(found)


class Waiting(gymnasium.Env[Any, Any]):
    """Takes 10 ms a step without computing, as a robot or a remote simulator does: many fit on one core."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(0.01)
        return np.full(4, action, np.float32), 0.0, False, False, {}


class Known:
    """Hosts nothing: gives the same blocks again, so that what is left is what the head does with them."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks

    def host(self, _setup: Any) -> "Known":
        return self

    def submit(self, *_: Any) -> None:
        pass

    def take(self) -> list[Block]:
        return self.blocks

    def close(self) -> None:
        pass


def pong(**changes: Any) -> Any:
    config = make_config("distil", PONG, network=STUDENT, threads=1, n_envs=SHARD, round_steps=STEPS, shards=1)
    return config.but(**changes)


def measure() -> dict[str, Any]:
    """Microseconds per state, and what the round trips cost."""
    torch.set_num_threads(1)
    teacher, info = load_teacher("zoo/pong-dqn"), describe_env(PONG)
    network = build(NetworkSpec.of(STUDENT, info.obs, teacher.fitted(info).head.width))
    policy = Policy(network, teacher.fitted(info).head.student)

    def streamed(collectors: Any, **changes: Any) -> Stream:
        stream = Stream(pong(**changes), teacher, collectors=collectors)
        stream.student = policy
        return stream

    def a_round(stream: Stream) -> Callable[[], None]:
        return lambda: [stream.collect(Progress(0.5)) for _ in range(STEPS)] and None

    states = SHARD * STEPS
    here = streamed(InProcess())
    shard = cpu_seconds(a_round(here), 3) / states
    here.source._host.submit(_order(policy))
    (block,) = here.source._host.take()
    obs = torch.randint(0, 255, (SHARD, *info.obs.shape), dtype=torch.uint8)
    asked = cpu_seconds(lambda: here.teacher.numbers(obs), 5) / SHARD
    ingest = cpu_seconds(a_round(streamed(Known([block]))), 10) / states
    update = cpu_seconds(_update(here, teacher.fitted(info)), 8)
    found = {
        "shard_us": 1e6 * (shard - ingest), "teacher_us": 1e6 * asked, "ingest_us": 1e6 * ingest,
        "cpu_update_us": 1e6 * update, "block_bytes_per_state": sum(c.nbytes for c in block.columns) / states,
        "weights_bytes": sum(4 * p.numel() for p in network.parameters()),
    }  # fmt: skip
    here.close()
    with contextlib.suppress(ExtraError, WorkerError):
        found |= _with_ray(streamed, a_round, block, policy)
    return found


def _order(policy: Policy) -> Any:
    from distilrl.shards import Order

    return Order(policy, Progress(0.5), needed=True, steps=STEPS)


def _update(stream: Stream, teacher: Any) -> Callable[[], object]:
    """One update of 64 states of the default recipe."""
    config, generator = pong(), torch.Generator().manual_seed(0)
    spec = NetworkSpec.of(STUDENT, stream.info.obs, stream.head.width)
    pupils = make_pupils([spec], [stream.head], [teacher], config.terms, config.student, generator, torch.device("cpu"))
    learner = Learner(pupils, config.terms, config.optim)

    def update() -> None:
        batch = stream.replay.batch(stream.replay.draw(64, generator))
        learner.update([Part(0, batch, Progress(0.5))])

    return update


def _with_ray(streamed: Any, a_round: Any, block: Block, policy: Policy) -> dict[str, Any]:
    """Round trips, and states a second (of the clock) in this process and by 1 and 2 collectors, in turn."""

    def rate(stream: Stream, rounds: int = 8) -> float:
        work, n_envs = a_round(stream), stream.config.data.n_envs
        work(), work()
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        return n_envs * STEPS * rounds / (time.perf_counter() - start)

    def clock(work: Callable[[], object], times: int = 20) -> float:
        work()
        start = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - start) / times

    with RayCollectors(2, "local") as hosts:
        ray, handle = hosts.ray, hosts.actors[0].handle
        found = {
            "call_ms": 1e3 * clock(lambda: ray.get(handle.about.remote(Place.here())), 100),
            "block_ms": 1e3 * clock(lambda: ray.get(ray.put(block))),
            "weights_ms": 1e3 * clock(lambda: ray.get(ray.put(policy))),
        }
        rates: dict[str, list[float]] = {"here": [], "1 shard": [], "2 shards": []}
        for _ in range(3):
            rates["here"].append(rate(streamed(InProcess())))
            hosts.count = 1
            rates["1 shard"].append(rate(streamed(hosts)))
            hosts.count = 2
            rates["2 shards"].append(rate(streamed(hosts, n_envs=2 * SHARD, shards=2)))
    return found | {"states_per_s": {name: sorted(values)[1] for name, values in rates.items()}, "waiting": waiting()}


def waiting(rounds: int = 10) -> dict[str, float]:
    """States a second of environments that wait, on a cluster of three machines that are simulated here."""
    from ray.cluster_utils import Cluster

    teacher = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), name="rule")
    cluster, found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0}), {}
    for _ in range(3):
        cluster.add_node(num_cpus=2)
    for count in (1, 2, 3, 6):
        config = make_config("distil", Waiting, network="mlp:8", threads=1, n_envs=4 * count)
        with RayCollectors(count, cluster.address) as hosts:
            stream = Stream(config.but(shards=count, round_steps=STEPS), teacher, collectors=hosts)
            for step in range((rounds + 2) * STEPS):
                if step == 2 * STEPS:
                    start = time.perf_counter()
                stream.collect(Progress(0.5))
            found[str(count)] = rounds * STEPS * 4 * count / (time.perf_counter() - start)
    cluster.shutdown()
    return found


@dataclass(frozen=True)
class World:
    """What is collected, and who learns from it."""

    name: str
    env_us: float
    """Of one step of one environment."""
    teacher_us: float
    """Of one answer."""
    update_us: float
    updates_per_state: float = 1 / 8
    """Updates of 64 states each; 0: 8 a vector step, however many environments there are."""
    bytes_per_state: float = 7_100.0


def simulated(world: World, collectors: int, about: dict[str, float], rounds: int = 60) -> float:
    """States a second of these collectors and one learner."""
    rng = np.random.default_rng(0)
    states = SHARD * STEPS
    own = states * 1e-6 * (world.env_us + world.teacher_us + about["student_us"])
    updates = world.updates_per_state * states * collectors or 8 * STEPS
    learning = 1e-6 * (updates * world.update_us + about["ingest_us"] * states * collectors)
    sent = about["weights_bytes"] * collectors / about["network_bytes_per_s"]
    came = world.bytes_per_state * states * collectors / about["network_bytes_per_s"]
    free, ended, order = np.zeros(collectors), 0.0, [0.0, 0.0]
    for number in range(rounds):
        took = own * np.maximum(1 + about["straggling"] * rng.standard_normal(collectors), 0.5)
        free = np.maximum(free, order[number] + about["latency_s"] + sent) + took
        begun = max(ended, free.max() + about["latency_s"] + came)
        ended = begun + learning
        order.append(ended)  # of the round after the next: it goes out when the next one begins to be learnt from
    return states * collectors * rounds / ended


def worlds(found: dict[str, Any]) -> list[World]:
    """What is asked about."""
    pong_us = found["shard_us"] - found["teacher_us"] - ASSUMED["student_us"]
    teacher, cpu, gpu = found["teacher_us"], found["cpu_update_us"], ASSUMED["gpu_update_us"]
    small = {"teacher_us": 20.0, "bytes_per_state": 200.0}
    return [
        World("Pong, CPU learner", pong_us, teacher, cpu),
        World("Pong, GPU learner", pong_us, teacher, gpu),
        World("Pong, GPU learner, updates fixed", pong_us, teacher, gpu, 0),
        World("Pong, five teachers, GPU learner", pong_us, 5 * teacher, gpu),
        World("10 ms a step, GPU learner", 10_000.0, update_us=gpu, **small),
        World("10 ms a step, updates fixed", 10_000.0, update_us=gpu, updates_per_state=0, **small),
        World("100 ms a step, GPU learner", 100_000.0, update_us=gpu, **small),
        World("100 ms a step, updates fixed", 100_000.0, update_us=gpu, updates_per_state=0, **small),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", nargs="?", type=Path, default=RESULTS / "scaling")
    parser.add_argument("--measured", type=Path, help="a scaling.json whose measurements are used again")
    given = parser.parse_args()
    found = json.loads(given.measured.read_text())["measured"] if given.measured else measure()
    about = {**ASSUMED, **{k: v for k, v in found.items() if isinstance(v, float | int)}}
    table: dict[str, Any] = {}
    for world in worlds(found):
        rates = [simulated(world, count, about) for count in COUNTS]
        ideal = [rates[0] * count / COUNTS[0] for count in COUNTS]
        useful = max(c for c, rate, best in zip(COUNTS, rates, ideal, strict=True) if rate >= 0.85 * best)
        ends = next(c for c, rate in zip(COUNTS, rates, strict=True) if rate >= 0.9 * max(rates))
        table[world.name] = {
            "states_per_s": dict(zip(map(str, COUNTS), (round(r) for r in rates), strict=True)),
            "85_percent_up_to": useful,
            "within_a_tenth_of_the_most_at": ends,
            "core_hours_per_million_states": {
                str(c): round(1e6 / r * (c + 1) / 3600, 2)
                for c, r in zip(COUNTS, rates, strict=True)
                if c in (1, 8, 64, 1000)
            },
        }
        print(f"{world.name:36} 1: {rates[0]:9,.0f}  most: {max(rates):9,.0f} at {ends:5}  85 % up to {useful}")
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.measured:
        machine(given.out)
    result = {"measured": found, "assumed": ASSUMED, "shard": SHARD, "steps": STEPS, "simulated": table}
    (given.out / "scaling.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(table, given.out / "scaling.svg")
    print(json.dumps(found))


def draw(table: dict[str, Any], out: Path) -> None:
    """States a second over collectors."""
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "distilrl"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, row in table.items():
        axes.loglog(COUNTS, list(row["states_per_s"].values()), label=name, marker=".")
    axes.set(xlabel="collectors, one core and 32 environments each", ylabel="states per second")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
