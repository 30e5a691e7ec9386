"""Synchronous and asynchronous training on the real stack, with evaluation in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vespo_openrlhf.bridge.run import evaluation

HERE = Path(__file__).parent
BATCHES = 4  # of the synchronous run
UPDATES_PER_BATCH = 4
MICRO_BATCHES = 2
CAPTURED = {
    "actor__policy_loss_type": f"{HERE / 'capturing_loss.py'}:capture",
    "train__micro_batch_size": 16 // MICRO_BATCHES,
}
Run = Any  # conftest's


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluation problems with ids of their own, two of them with the same prompt."""
    path = tmp_path_factory.mktemp("problems") / "eval.jsonl"
    prompts = ["123+456=", "111+222=", "123+456=", "700+205="]
    rows = [
        {"id": f"p{i}", "prompt": prompt, "label": "1", "datasource": "sums"}
        for i, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the synchronous run leaves its loss calls."""
    return tmp_path_factory.mktemp("calls")


@pytest.fixture(scope="module")
def synchronous(train: Callable[..., Run], problems: Path, calls: Path) -> Run:
    """VESPO as a user's own loss, two micro-batches to an update, where the other runs take one;
    the CPU stack by force, where the others find that there is no GPU; with evaluations."""
    return train(
        environment={"VESPO_CPU": "1", "VESPO_TEST_CAPTURE": str(calls)},
        **CAPTURED,
        data__max_samples=16 * BATCHES,
        run__record=True,
        eval__dataset=problems,
        eval__steps=2,
        eval__n_samples_per_prompt=4,
        eval__temperature=1.0,
    )


@pytest.fixture(scope="module")
def captured(synchronous: Run, calls: Path) -> list[dict]:
    """Every loss call of it, one per micro-batch."""
    return [torch.load(path) for path in sorted(calls.iterdir())]


@pytest.fixture(scope="module")
def asynchronous(record: Callable[..., tuple[Run, Path]]) -> Run:
    """With partial rollouts. Its lags are for test_lag.py, which has a run without them, too; and
    test_nodes.py has one that keeps the KV cache."""
    run, _ = record(16, UPDATES_PER_BATCH, True)
    return run


@pytest.fixture(scope="module")
def replayed(
    train: Callable[..., Run], synchronous: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    """The synchronous run trained again from what it recorded, without an engine; and its loss
    calls."""
    calls = tmp_path_factory.mktemp("again")
    run = train(
        environment={"VESPO_TEST_CAPTURE": str(calls)},
        **CAPTURED,
        data__prompt_dataset=False,
        vllm__num_engines=False,
        reward__remote_url=False,
        offline__data=synchronous.folder,
    )
    return run, calls


MODES = pytest.mark.parametrize(
    ("mode", "loss", "batches"), [("synchronous", "capture", 4), ("asynchronous", "vespo", 8)]
)


def test_the_loss_in_the_worker_is_the_formula_in_float64(captured: list[dict]) -> None:
    assert len(captured) == BATCHES * UPDATES_PER_BATCH * MICRO_BATCHES
    for call in captured:
        mask = call["action_mask"].bool()

        def double(name: str, call: dict = call, mask: torch.Tensor = mask) -> torch.Tensor:
            return torch.where(mask, call[name].double(), 0.0)

        log_w = (double("log_probs") - double("rollout_log_probs")).sum(-1)
        advantage = double("advantages").sum(-1) / mask.sum(-1)
        c1 = torch.where(advantage >= 0, 2.0, 3.0)
        c2 = torch.where(advantage >= 0, 3.0, 2.0)
        phi = torch.exp(c1 * log_w + c2 * (1 - torch.exp(log_w)))
        coefficient = -phi[:, None] * double("advantages") / call["batch_num_tokens"].double()
        loss = (coefficient * double("log_probs")).sum()
        torch.testing.assert_close(call["loss"].double(), loss, rtol=1e-5, atol=1e-9)
        expected = torch.where(mask, coefficient, 0.0)
        torch.testing.assert_close(call["gradient"].double(), expected, rtol=1e-5, atol=1e-12)


def test_engine_and_trainer_agree_on_a_sample_at_lag_0(captured: list[dict]) -> None:
    """Before the first update both sides hold the same weights; after it the engine has them, sent
    at the end of every batch. With adapters: test_ranks.py."""
    gaps = []
    for call in captured:
        mask = call["action_mask"].bool()
        gaps.append(float((call["log_probs"] - call["rollout_log_probs"])[mask].abs().max()))
    size = UPDATES_PER_BATCH * MICRO_BATCHES
    for batch in (gaps[i : i + size] for i in range(0, len(gaps), size)):
        assert max(batch[:MICRO_BATCHES]) < 1e-5 < 1e-3 < max(batch[MICRO_BATCHES:])


def test_a_recorded_run_is_trained_again_with_the_same_losses_and_weights(
    synchronous: Run, captured: list[dict], replayed: tuple[Run, Path]
) -> None:
    run, calls = replayed
    again = [torch.load(path) for path in sorted(calls.iterdir())]
    assert len(again) == len(captured)
    for call, same in zip(captured, again, strict=True):
        assert call.keys() == same.keys()
        for name, value in call.items():
            torch.testing.assert_close(same[name], value, rtol=1e-5, atol=1e-7, equal_nan=True)
    models = [load_file(each.folder / "model" / "model.safetensors") for each in (synchronous, run)]
    torch.testing.assert_close(*models, rtol=1e-5, atol=1e-7)
    for line, other in zip(synchronous.metrics, run.metrics, strict=True):
        names = [n for n in line if n.startswith(("capture/", "lag", "rollout/", "token_version/"))]
        assert len(names) > 40
        assert {n: other[n] for n in names} == pytest.approx({n: line[n] for n in names}, rel=1e-4)
    assert "VersionedRollout" not in run.output  # no engine was there


@MODES
def test_a_run_trains_and_leaves_what_it_promises(
    mode: str, loss: str, batches: int, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(mode)
    assert f"policy loss in place: {loss}" in run.output
    metrics = run.metrics
    assert [line["step"] for line in metrics] == list(range(1, batches + 1))
    for line in metrics:
        assert 0 < line[f"{loss}/grad_norm_mean"] <= line[f"{loss}/grad_norm_max"]
        assert line["actor_grad_norm"] <= line[f"{loss}/grad_norm_max"]
        assert line[f"{loss}/num_skipped_updates"] == 0
        assert line[f"{loss}/log_w_abs_mean"] > 0
        assert 0 < line[f"{loss}/ess_ratio"] <= 1
        assert 0 < line[f"{loss}/phi_mean"] <= line[f"{loss}/phi_max"] <= math.exp(1)
        signs = ("positive", "negative", "zero")
        assert sum(line[f"{loss}/num_{sign}"] for sign in signs) == 64
    config = json.loads((run.folder / "config.json").read_text())
    assert config["algo.advantage.is_correction_level"] == "token"
    assert (run.folder / "model" / "model.safetensors").is_file()


@MODES
def test_every_update_has_its_line(
    mode: str, loss: str, batches: int, request: pytest.FixtureRequest
) -> None:
    """In the order they were made; their mean is the batch's, as every update has 16 samples."""
    run: Run = request.getfixturevalue(mode)
    updates = [json.loads(line) for line in (run.folder / "updates.jsonl").open()]
    assert [line["update"] for line in updates] == list(range(batches * UPDATES_PER_BATCH))
    for batch in run.metrics:
        own = [line for line in updates if line["step"] == batch["step"]]
        assert [line["mini_batch"] for line in own] == list(range(UPDATES_PER_BATCH))
        for name in (
            *("policy_loss", "rollout_kl", "rollout_log_ppl"),
            *(f"{loss}/log_w_mean", f"{loss}/log_w_abs_mean", f"{loss}/phi_mean"),
        ):
            mean = sum(line[name] for line in own) / UPDATES_PER_BATCH
            assert mean == pytest.approx(batch[name], rel=1e-4, abs=1e-7), name
        norms = [line[f"{loss}/grad_norm"] for line in own]
        assert max(norms) == pytest.approx(batch[f"{loss}/grad_norm_max"])
        assert norms[-1] == pytest.approx(batch["actor_grad_norm"])
        assert batch["rollout_log_ppl"] > 0


def test_each_evaluation_leaves_records_by_problem_and_logs_the_harness_metrics(
    synchronous: Run,
) -> None:
    logged = {line["step"]: line for line in synchronous.lines("eval")}
    assert logged.keys() >= {2, 4}
    for step, line in logged.items():
        folder = synchronous.folder / evaluation.FOLDER / f"step_{step:06d}"
        lines = (folder / "sums" / "generations.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [(r["id"], r["repeat"]) for r in records] == [
            (f"p{i}", repeat) for i in range(4) for repeat in range(4)
        ]
        assert all(r["prompt"].endswith("assistant\n") for r in records)
        assert all(0 < r["tokens"] <= 32 for r in records)
        summary = json.loads((folder / "summary.json").read_text())["benchmarks"]["sums"]
        assert (summary["problems"], summary["repeats"]) == (4, 4)
        assert line["eval_sums_pass1"] == pytest.approx(summary["avg@k"])
        assert line["eval_sums_pass4"] == pytest.approx(summary["pass@k"]["4"])
        assert line["eval_sums_standard_error"] == pytest.approx(summary["standard_error"])
        assert line["eval_num_samples"] == 16


def test_metrics_arrive_in_tensorboard_too(synchronous: Run) -> None:
    (events,) = (synchronous.folder / "tensorboard").rglob("events*")
    accumulator = EventAccumulator(str(events)).Reload()
    for name in ("log_w_mean", "log_w_max", "log_w_std", "phi_mean", "phi_max", "ess_ratio"):
        logged = [event.value for event in accumulator.Scalars(f"train/capture/{name}")]
        assert logged == pytest.approx([line[f"capture/{name}"] for line in synchronous.metrics])
    updates = accumulator.Scalars("update/capture/log_w_mean")
    assert [event.step for event in updates] == list(range(BATCHES * UPDATES_PER_BATCH))


def test_training_moves_the_weights_the_engine_samples_with(synchronous: Run) -> None:
    rewards = [line["rollout/reward_mean"] for line in synchronous.metrics]
    assert rewards[-1] > rewards[0]


def test_the_first_batch_of_a_synchronous_run_has_no_lag_but_its_own_updates(
    synchronous: Run, asynchronous: Run
) -> None:
    """An asynchronous batch is one batch old when it is used, and log W shows it."""

    def drift(run: Run, loss: str) -> float:
        later = run.metrics[1:]  # both runs' first batch is sampled with the first weights
        return sum(line[f"{loss}/log_w_abs_mean"] for line in later) / len(later)

    assert drift(asynchronous, "vespo") > drift(synchronous, "capture")


def test_the_model_that_is_saved_loads(asynchronous: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(asynchronous.folder / "model")
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(asynchronous.folder / "model").chat_template
