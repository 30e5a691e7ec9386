"""Speeds that are put into a simulated run come out of its records again."""

import json
from pathlib import Path

import pytest

from vespo_openrlhf.scheduling import LagOptions, PromptLedger, Scheduler
from vespo_openrlhf.simulate import main
from vespo_openrlhf.simulator.calibrate import fit_decode_step, read_run
from vespo_openrlhf.simulator.simulated_cluster import Cluster
from vespo_openrlhf.simulator.simulation import Setup
from vespo_openrlhf.simulator.workload import ClusterConfig, Lengths

CLUSTER = ClusterConfig(
    engines=2,
    max_sequences=32,
    step_seconds=0.02,
    step_seconds_per_sequence=0.001,
    lengths=Lengths(median=60, sigma=0.5, cut=200),
    train_tokens_per_second=2500,
    publish_seconds=0.3,
)
SETUP = Setup(CLUSTER, prompts_per_batch=16, samples_per_prompt=4, updates_per_batch=4)
LAG = LagOptions(max=8)
START_UP_S = 6.0  # of the engines, with their first responses in hand


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, written by a simulated run."""
    folder = tmp_path_factory.mktemp("run")
    groups, steps = [], []
    cluster = Cluster(CLUSTER, SETUP.samples_per_prompt)
    train = cluster.trainer.train

    def recorded(step) -> None:
        for mini_batch in step.batch.mini_batches[step.first : step.last]:
            groups.extend(
                {
                    "batch": len(steps),
                    "engine": group.engine,
                    "dispatched_at": group.dispatched_at or -START_UP_S,
                    "generated_at": group.generated_at,
                    "spans": group.spans,
                }
                for group in mini_batch
            )
        train(step)

    cluster.trainer.train = recorded  # type: ignore[method-assign]
    scheduler = Scheduler(
        SETUP.scheduler_config(LAG, partial_rollout=True),
        PromptLedger([f"p{i}" for i in range(16 * 30)]),
        cluster.trainer,
        clock=cluster.clock,
        on_batch=lambda report: steps.append({"kind": "train", **report.scalars()}),
    )
    cluster.run(scheduler)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "rollout.batch_size": 16,
                "rollout.n_samples_per_prompt": 4,
                "rollout.in_flight_per_engine": 32,
                "train.batch_size": 16,
                "train.async_enable": True,
                "train.partial_rollout_enable": True,
                "vllm.num_engines": 2,
                "lag.max": 8,
                "lag.on_stale": "wait",
                "lag.sync_every": None,
                "lag.target_ess": None,
            }
        )
    )
    for name, rows in (("metrics", steps), ("samples", groups)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def test_the_speeds_of_the_cluster_are_found_again(folder: Path) -> None:
    run = read_run(folder)
    cluster = run.setup.cluster
    for active in (24, 28, 31):  # as the engines had, once they were up
        assert cluster.step_time(active) == pytest.approx(CLUSTER.step_time(active), rel=0.05)
    assert cluster.train_tokens_per_second == pytest.approx(2500, rel=0.05)
    assert cluster.publish_seconds == pytest.approx(0.3, rel=0.05)
    assert cluster.lengths.mean() == pytest.approx(CLUSTER.lengths.mean(), rel=0.05)
    assert run.lag == LAG
    assert run.partial_rollout


def test_a_synchronous_run_is_predicted_as_one(folder: Path, tmp_path: Path) -> None:
    flags = json.loads((folder / "config.json").read_text())
    flags |= {"train.async_enable": False, "lag.max": None}
    (tmp_path / "config.json").write_text(json.dumps(flags))
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_text((folder / name).read_text())
    assert read_run(tmp_path).lag == LagOptions(max=3)


def test_the_bytes_of_replayed_experts_are_those_of_the_run(folder: Path, tmp_path: Path) -> None:
    assert read_run(folder).setup.routing_bytes_per_token == 0
    for name in ("config.json", "samples.jsonl"):
        (tmp_path / name).write_text((folder / name).read_text())
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    text = "".join(json.dumps(line | {"routing/bytes": 64 * 24_000.0}) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    setup = read_run(tmp_path).setup  # of 64 responses
    mean = setup.cluster.lengths.measured
    assert setup.routing_bytes_per_token == pytest.approx(24_000 * len(mean) / sum(mean))


def test_a_run_whose_environment_hides_its_engines_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "samples.jsonl"):
        (tmp_path / name).write_text((folder / name).read_text())
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    text = "".join(json.dumps(line | {"timing/environment": 2.5}) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"environment takes 2\.5 s .* --environment-seconds"):
        read_run(tmp_path)


def test_the_prediction_meets_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from-run", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["predicted_to_measured"] == pytest.approx(1, abs=0.1)


def test_a_load_that_never_changes_leaves_all_to_the_step() -> None:
    groups = [
        {"engine": "e", "dispatched_at": t, "generated_at": [t + 5.0], "spans": [[(0, 100)]]}
        for t in (0.0, 5.0, 10.0)
    ]
    step, per_sequence = fit_decode_step(groups, beside=groups)
    assert step + per_sequence == pytest.approx(0.05)


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--from-run", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
