import json
import random
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from vespo_openrlhf.scheduling import (
    LagOptions,
    Prompt,
    PromptLedger,
    Request,
    Scheduler,
    SchedulerConfig,
    bench,
)
from vespo_openrlhf.simulator import command
from vespo_openrlhf.simulator.simulated_cluster import Cluster, SimulatedEngine
from vespo_openrlhf.simulator.simulation import PRESETS, Baselines, RunLength, simulate
from vespo_openrlhf.simulator.workload import ClusterConfig, Faults, Lengths

SMALL = replace(
    PRESETS["one-node"],
    cluster=replace(PRESETS["one-node"].cluster, engines=2, max_sequences=64),
    prompts_per_batch=12,
)
HEAVY = ("torch", "ray", "openrlhf", "vllm", "deepspeed", "transformers", "numpy", "matplotlib")


def test_import_needs_the_standard_library_alone():
    """In a fresh interpreter: this one may hold anything."""
    code = (
        "import sys, vespo_openrlhf.scheduling, vespo_openrlhf.scheduling.bench\n"
        "import vespo_openrlhf.simulate\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_decoding_against_a_token_by_token_loop():
    """One engine, four slots, all requests at once: each sequence ends when a loop says."""
    config = ClusterConfig(1, 4, 0.5, 0.25, Lengths(20, 0.7, 60), train_tokens_per_second=1e9)
    cluster = Cluster(config, group_size=1, seed=3)
    ledger = PromptLedger([f"p{i}" for i in range(12)])
    scheduler = Scheduler(
        SchedulerConfig(12, 1, 1, 12), ledger, cluster.trainer, clock=cluster.clock
    )
    ends = []
    report_sample = cluster.sample_done

    def record(engine, ticket, sample, spans):
        ends.append((cluster.clock(), ticket, spans[0][1]))
        report_sample(engine, ticket, sample, spans)

    cluster.sample_done = record
    cluster.run(scheduler)

    dice = random.Random("lengths/3")
    waiting = [
        [ticket, length, length]
        for ticket, length in enumerate(config.lengths.draw(dice) for _ in range(12))
    ]
    active, expected, now = [], [], 0.0
    while waiting or active:
        while waiting and len(active) < 4:
            active.append(waiting.pop(0))
        now += 0.5 + 0.25 * len(active)
        for sequence in active:
            sequence[1] -= 1
        expected += [(now, ticket, length) for ticket, left, length in active if not left]
        active = [sequence for sequence in active if sequence[1]]
    assert [e[1:] for e in sorted(ends)] == [e[1:] for e in sorted(expected)]
    assert [e[0] for e in sorted(ends)] == pytest.approx([e[0] for e in sorted(expected)])


def test_lengths_of_the_paper():
    """exp(mu + sigma^2 / 2) = 2,982 without the cut, a little less with it."""
    lengths = PRESETS["paper-async"].cluster.lengths
    assert 2850 < lengths.mean() < 2982
    dice = random.Random(0)
    draws = sorted(lengths.draw(dice) for _ in range(20_001))
    assert draws[10_000] == pytest.approx(2000, rel=0.03)
    assert draws[-1] == 15_360


def test_measured_lengths():
    lengths = Lengths(1, 1, 50, measured=(10, 20, 90))
    dice = random.Random(0)
    assert {lengths.draw(dice) for _ in range(100)} == {10, 20, 50}


def test_the_two_loops_there_are_today():
    """Synchronous lag is 0..N-1; the queue of one adds a batch; both wait for the slowest."""
    baselines = Baselines.of(SMALL)
    synchronous, queued = baselines.synchronous, baselines.queued
    assert synchronous.max_lag == 3
    assert synchronous.mean_lag == pytest.approx(1.5, abs=0.3)
    assert queued.max_lag == 7
    assert queued.samples_per_second > synchronous.samples_per_second
    assert synchronous.lost == queued.lost == 0


def test_more_lag_is_more_throughput():
    length = RunLength(10, 20, 4)
    speeds = []
    for batches in (2, 3, 4):
        lag = LagOptions(max=batches * SMALL.updates_per_batch)
        result = simulate(SMALL, lag, length, partial_rollout=True)
        assert result.max_lag <= lag.max
        assert (result.lost, result.duplicated) == (0, 0)
        speeds.append(result.samples_per_second)
    assert speeds == sorted(speeds)
    assert speeds[-1] > 2 * Baselines.of(SMALL).synchronous.samples_per_second


def test_a_kv_cache_that_is_computed_again_costs_what_it_takes():
    setup = replace(SMALL, cluster=replace(SMALL.cluster, prefill_tokens_per_second=2000.0))
    speeds = {}
    for name, of, kv in (
        ("free", SMALL, "recompute"),
        ("keep", setup, "keep"),
        ("recompute", setup, "recompute"),
    ):
        lag = LagOptions(max=16, kv=kv)
        result = simulate(of, lag, RunLength(10, 20, 4), partial_rollout=True)
        assert (result.lost, result.duplicated) == (0, 0)
        speeds[name] = result.samples_per_second
    assert speeds["free"] == speeds["keep"] > speeds["recompute"]


def test_an_engine_stands_still_while_it_computes_again():
    """Four sequences of 20 tokens at a token a second; after ten, new weights, and 40 tokens to
    compute again at 8 a second."""
    config = ClusterConfig(
        1, 4, 1.0, 0.0, Lengths(20, 0.0, 20), publish_seconds=3.0, prefill_tokens_per_second=8.0
    )
    cluster = Cluster(config, group_size=4)
    cluster.scheduler = SimpleNamespace(config=SchedulerConfig(1, 4, 1, 4))
    engine = SimulatedEngine(cluster, "engine-0", 0, 1.0)
    ended = []
    cluster.sample_done = lambda engine, ticket, sample, spans: ended.append(
        (cluster.calendar.now, spans)
    )
    engine.generate(Request(0, Prompt(0, 0, "p"), 4, 0))
    calendar = cluster.calendar
    calendar.at(10.0, engine.pause)
    calendar.at(13.0, engine.resume, 1)
    engine.replan()
    while calendar.step():
        for touched in cluster.dirty:
            touched.replan()
        cluster.dirty.clear()
    assert ended == [(28.0, ((0, 10), (1, 10)))] * 4


def test_target_ess_is_met():
    cluster = replace(SMALL.cluster, ess_half_lag=6.0)
    setup = replace(SMALL, cluster=cluster)
    lag = LagOptions(max=64, target_ess=0.5)
    result = simulate(setup, lag, RunLength(80, 20, 4), partial_rollout=True)
    assert result.mean_lag == pytest.approx(6.0, rel=0.2)
    free = simulate(setup, LagOptions(max=64), RunLength(20, 20, 4), partial_rollout=True)
    assert free.mean_lag > result.mean_lag


def test_faults_are_accounted_for():
    faults = Faults(engine_mtbf=2000, replace_seconds=30, lost_reward_share=0.01)
    setup = replace(SMALL, cluster=replace(SMALL.cluster, faults=faults))
    result = simulate(setup, LagOptions(max=16), RunLength(5, 10, 5), partial_rollout=True)
    assert result.resent > 0
    assert (result.lost, result.duplicated) == (0, 0)
    assert result.max_lag <= 16


def test_filtering_leaves_as_many_batches_to_measure():
    setup = replace(SMALL, cluster=replace(SMALL.cluster, faults=Faults(filtered_share=0.8)))
    result = simulate(setup, LagOptions(max=16), RunLength(5, 10, 2), partial_rollout=True)
    assert 700 < result.filtered < 900  # four of five, and 17 batches of 12 are left
    assert result.samples_per_second > 0
    assert (result.lost, result.duplicated) == (0, 0)


@pytest.mark.parametrize(("lag", "updates"), [(3, 4 + 4), (8, 4 + 4 + 1)])
def test_what_is_held_is_let_go_with_the_next_batch(lag, updates):
    """Responses of 100 tokens and a trainer that is always behind: a batch of 4 updates, the one
    before it, and what the bound lets wait beside them."""
    slow = replace(SMALL.cluster, lengths=Lengths(100, 0.0, 100), train_tokens_per_second=100.0)
    setup = replace(SMALL, cluster=slow)
    result = simulate(setup, LagOptions(max=lag), RunLength(2, 4, 2), partial_rollout=True)
    assert result.held_tokens == updates * 12 * 8 / 4 * 100


def test_stuck_is_said():
    cluster = Cluster(SMALL.cluster, 1)
    ledger = PromptLedger(["p"])
    config = SchedulerConfig(1, 1, 1, 1)
    scheduler = Scheduler(config, ledger, cluster.trainer, clock=cluster.clock)
    with pytest.raises(RuntimeError, match="stuck"):
        cluster.run(scheduler, max_seconds=0.01)


NODE = ["--preset", "one-node", "--engines", "2", "--prompts", "12", "--max-sequences", "64"]


def test_command_prints_json(capsys):
    assert command.main([*NODE, "--lag-batches", "4", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["speedup_vs_sync"] > figures["speedup_vs_queue"] > 1
    assert 0 < figures["max_lag_batches"] <= 4
    assert (figures["lost"], figures["duplicated"]) == (0, 0)


def test_command_reads_lengths_and_prints_a_summary(capsys, tmp_path):
    lengths = tmp_path / "lengths.json"
    lengths.write_text("[100, 200, 300]")
    options = ["--lengths", str(lengths), "--target-ess", "0.5", "--ess-half-lag", "4"]
    assert command.main([*NODE, *options]) == 0
    text = capsys.readouterr().out
    assert "x synchronous" in text
    assert "working lag" in text


def test_command_tells_what_experts_take_where_they_are_replayed(capsys):
    options = [*NODE, "--length-sigma", "0", "--length-median", "100"]
    assert command.main([*options, "--json"]) == 0
    assert "routing" not in capsys.readouterr().out
    options += ["--routing-bytes-per-token", "384"]
    assert command.main([*options, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["routing_bytes_per_batch"] == pytest.approx(384 * 12 * 8 * 100)
    assert figures["routing_bytes_held"] == 384 * figures["held_tokens"]
    assert figures["routing_bytes_per_second"] == 384 * figures["tokens_per_second"]
    assert command.main(options) == 0
    assert "experts to replay    0.00343 GiB a batch" in capsys.readouterr().out


def test_command_draws(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command, "PLOT_LAGS", (2, 4))
    picture = tmp_path / "throughput.png"
    assert command.main([*NODE, "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "L = 4 batches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lag-batches", "0.5"], "cannot be kept"),
        (["--prompts", "13"], "do not split"),
        (["--engines", "0"], "needs an engine"),
        (["--target-ess", "0.5"], "--ess-half-lag"),
        (["--lengths", "nowhere.json"], "nowhere.json"),
        (["--length-sigma", "-1"], "sigma"),
        (["--routing-bytes-per-token", "-1"], "routing_bytes_per_token is -1.0, below 0"),
        (["--filtered", "1"], "filtered_share lies between 0 and 1"),
        (["--engine-mtbf", "0"], "engine_mtbf is above 0"),
        (["--lost-rewards", "0.99"], "no batch is left to measure"),
    ],
)
def test_command_refuses(capsys, options, message):
    assert command.main([*NODE, *options]) == 2
    assert message in capsys.readouterr().err


def test_bench_prints_every_size(capsys, monkeypatch):
    monkeypatch.setattr(bench, "IN_FLIGHT", (100, 1000))
    assert bench.main(["--samples", "2000", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["in_flight"] for row in rows] == [100, 1000]
    assert all(row["us_per_sample"] > 0 for row in rows)
