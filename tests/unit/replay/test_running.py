"""A comparison from its first cell to its table.

Training itself needs Ray and half a minute: `FakeTraining` leaves in its place what it leaves.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vespo_openrlhf import cpu
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.replay import __main__ as command
from vespo_openrlhf.replay import accuracy, running
from vespo_openrlhf.replay.accuracy import Accuracy, Mean
from vespo_openrlhf.replay.cells import Cell
from vespo_openrlhf.replay.table import Result, as_json, as_text, figures, over_seeds


def line(loss: str, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "kind": "train",
        "rollout/reward_mean": 0.25 * step,
        f"{loss}/log_w_abs_mean": 0.1 * step,
        f"{loss}/ess_ratio": 1 / step,
        f"{loss}/grad_norm_mean": float(step),
        f"{loss}/num_skipped_updates": step - 1,
    } | ({f"{loss}/phi_mean": 0.5} if loss == "vespo" else {})


def leave_a_run(folder: Path, loss: str = "vespo") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line(loss, step) for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in lines))
    (folder / "finished.json").write_text("{}")


class FakeTraining:
    """In the place of `run_job`.

    Attributes:
        trained: the losses, in their order.
        failing: those whose training fails.
        interrupted: the one in which the user loses patience.
    """

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.failing: set[str] = set()
        self.interrupted = ""

    def __call__(
        self, cluster: Any, arguments: Sequence[str], *, log: Path, metrics: Path, total_steps: int
    ) -> None:
        loss = arguments[arguments.index("--actor.policy_loss_type") + 1]
        self.trained.append(loss)
        (metrics.parent / "ray.log").touch()  # which the cluster leaves
        if loss == self.interrupted:
            metrics.write_text("torn")
            raise KeyboardInterrupt
        if loss in self.failing:
            raise RuntimeError(f"the training job failed; the end of {log}:\nout of memory")
        leave_a_run(metrics.parent, loss)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(running, "run_job", fake)
    monkeypatch.setattr(running, "LocalCluster", lambda *_, **__: nullcontext())
    monkeypatch.setattr(cpu, "is_active", lambda: True)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    return fake


def test_every_cell_is_trained_and_put_side_by_side(
    record: Callable[..., Path],
    training: FakeTraining,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = [str(record()), "--loss", "vespo", "gspo", "--out", str(out)]
    assert command.main(words) == 0
    assert training.trained == ["vespo", "gspo"]
    shown = capsys.readouterr().out
    assert "[1/2] vespo, 1 epoch\n" in shown
    assert "[2/2] gspo, 1 epoch\n" in shown
    content = json.loads((out / "table.json").read_text())
    assert [cell["name"] for cell in content["cells"]] == ["vespo-e1", "gspo-e1"]
    assert "gspo-e1" in (out / "report.html").read_text()

    assert command.main(words) == 0
    assert training.trained == ["vespo", "gspo"]
    assert capsys.readouterr().out.count("   found\n") == 2


def test_a_cell_that_fails_costs_no_other(
    record: Callable[..., Path],
    training: FakeTraining,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    training.failing = {"vespo"}
    words = [str(record()), "--loss", "vespo", "gspo", "--out", str(tmp_path / "out")]
    assert command.main(words) == 1
    told = capsys.readouterr()
    assert "out of memory" in told.err
    assert "1 of 2 cells failed" in told.err
    assert "gspo" in told.out.splitlines()[-5]

    training.failing = set()
    assert command.main(words) == 0
    assert training.trained == ["vespo", "gspo", "vespo"]


def test_a_cell_that_was_interrupted_is_started_anew(
    record: Callable[..., Path], training: FakeTraining, tmp_path: Path
) -> None:
    training.interrupted = "gspo"
    words = [str(record()), "--loss", "vespo", "gspo", "--out", str(tmp_path / "out")]
    assert command.main(words) == 130
    assert (tmp_path / "out" / "gspo-e1" / "metrics.jsonl").read_text() == "torn"
    training.interrupted = ""
    assert command.main(words) == 0
    assert training.trained == ["vespo", "gspo", "gspo"]


def test_a_cell_in_which_another_process_trains_is_left_to_it(
    record: Callable[..., Path],
    training: FakeTraining,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with RunFolder(out / "vespo-e1").locked():
        (out / "vespo-e1" / "ray.log").touch()
        assert command.main([str(record()), "--loss", "vespo", "--out", str(out)]) == 1
    assert "is in use by process" in capsys.readouterr().err
    assert training.trained == []


def test_files_that_no_training_has_left_are_not_removed(
    record: Callable[..., Path],
    training: FakeTraining,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path / "out" / "vespo-e1" / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.touch()
    words = [str(record()), "--loss", "vespo", "--out", str(tmp_path / "out")]
    assert command.main(words) == 1
    assert mine.exists()
    assert "holds files that no training of a comparison has left" in capsys.readouterr().err
    assert training.trained == []


def test_what_the_user_can_mend_is_one_message(
    training: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path), "--loss", "vespo", "--out", str(tmp_path / "out")]) == 2
    assert "error: " in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_more_gpus_than_there_are_is_told(
    record: Callable[..., Path],
    training: FakeTraining,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cpu, "is_active", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    run = record("--actor.num_gpus_per_node", "2", "--train.micro_batch_size", "1")
    assert command.main([str(run), "--loss", "vespo", "--out", str(tmp_path / "out")]) == 2
    assert "actor, ref of the run take 10 GPUs, and this machine has 1" in capsys.readouterr().err


class FakeEvaluator:
    """In the place of the process that holds vLLM: leaves the folder of a whole evaluation."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def start(self, arguments: Sequence[str], log: Path) -> Callable[[], None]:
        self.asked.append(list(arguments))
        (out,) = (word.removeprefix("--out=") for word in arguments if word.startswith("--out="))

        def wait() -> None:
            Path(out).mkdir(parents=True)
            summary = {"benchmarks": {"held": {"avg@k": 0.5, "standard_error": 0.125}}}
            (Path(out) / "summary.json").write_text(json.dumps(summary))

        return wait


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> FakeEvaluator:
    """With a plan of one problem, which no tokenizer needs to be loaded for."""
    fake = FakeEvaluator()
    monkeypatch.setattr(accuracy, "plan", lambda run: SimpleNamespace())
    monkeypatch.setattr(accuracy, "left_to_do", lambda planned, out, fresh: 1 - out.exists())
    return fake


FLAGS = {
    "rollout.max_new_tokens": 40,
    "data.max_len": 64,
    "data.apply_chat_template": True,
    "data.input_template": None,
    "train.agent_func_path": None,
}


def test_models_are_asked_as_the_run_asked_and_once(
    evaluator: FakeEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "held.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    measure = Accuracy(evaluator, "held.jsonl:4,aime24", FLAGS)
    for _ in range(2):
        assert measure.of("model", tmp_path / "a") == {"held": Mean(0.5, 0.125)}
    (words,) = evaluator.asked
    assert words == [
        f"--benchmarks={tmp_path}/held.jsonl:4,aime24",
        "--max-tokens=40",
        f"--model={tmp_path}/model",
        f"--out={tmp_path}/a",
    ]
    bare = {"data.apply_chat_template": False, "data.input_template": "Q: {}\nA:"}
    Accuracy(evaluator, "aime24", FLAGS | bare).of("some/model", tmp_path / "b")
    assert "--raw" in evaluator.asked[1]
    assert "--template=Q: {problem}\nA:" in evaluator.asked[1]
    assert "--model=some/model" in evaluator.asked[1]


def test_a_benchmark_that_is_not_there_costs_no_training(
    record: Callable[..., Path],
    training: FakeTraining,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(record()), "--loss", "vespo", "--out", str(tmp_path / "out")]
    assert command.main([*words, "--benchmarks", "nowhere.jsonl:2"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    assert training.trained == []


def test_figures_are_of_the_first_and_the_last_batch(tmp_path: Path) -> None:
    leave_a_run(tmp_path / "run")
    found = figures(tmp_path / "run", {"held": Mean(0.5, 0.1)})
    assert found["accuracy/held"] == Mean(0.5, 0.1)
    means = {name: value.mean for name, value in found.items()}
    assert means["batches"] == 2
    assert means["reward_mean"] == pytest.approx(0.375)
    assert (means["log_w_abs_mean/first"], means["log_w_abs_mean/last"]) == (0.1, 0.2)
    assert (means["grad_norm/first"], means["grad_norm/last"]) == (1, 2)
    assert means["skipped_updates"] == 1


def test_what_a_loss_does_not_log_is_no_number(tmp_path: Path) -> None:
    leave_a_run(tmp_path / "gspo", "gspo")
    leave_a_run(tmp_path / "vespo")
    results = [Result(Cell(n, 1), figures(tmp_path / n, {})) for n in ("gspo", "vespo")]
    content = json.loads(as_json(results, {}))
    assert content["cells"][0]["phi_mean/first"] == {"mean": None, "standard_error": None}
    header, gspo, vespo = as_text(results, {}).splitlines()
    assert header.split() == ["loss", "epochs", *"reward |log W| ESS phi grad norm skipped".split()]
    assert "0.5 -> 0.5" in vespo
    assert "0.5 -> 0.5" not in gspo
    assert "phi" not in as_text(results[:1], {})


def test_seeds_have_a_mean_with_its_standard_error(tmp_path: Path) -> None:
    results = []
    for seed, share in ((0, 0.4), (1, 0.6)):
        cell = Cell("vespo", 1, seed)
        leave_a_run(tmp_path / cell.name)
        results.append(Result(cell, figures(tmp_path / cell.name, {"held": Mean(share, 0.2)})))
    results.append(Result(Cell("gspo", 1, 0), results[0].figures))
    (mean,) = over_seeds(results)
    assert mean.cell == Cell("vespo", 1)
    assert mean.figures["accuracy/held"] == pytest.approx((0.5, 0.1))
    lines = as_text(results, {"held": Mean(0.25, None)}).splitlines()
    assert lines[1].split()[:4] == ["start", "-", "-", "25"]
    assert lines[2].split()[:6] == ["vespo", "1", "0", "40", "±", "20"]
    assert lines[-1].split()[:6] == ["vespo", "1", "mean", "50", "±", "10"]
