"""What the quickstart does again, and what it finds."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vespo_openrlhf.agents.loading import load_agent
from vespo_openrlhf.embedded.build import PRODUCTS, file_hashes
from vespo_openrlhf.quickstart import __main__ as command
from vespo_openrlhf.quickstart import pipeline
from vespo_openrlhf.quickstart.pipeline import Plan, training_flags

NUMBERS = {
    "before": {"avg@k": 0.25, "standard_error": 0.01},
    "after": {"avg@k": 0.75, "standard_error": 0.01},
}


class Evaluator:
    """In the place of the process: as it does, it answers in turn, whoever waits."""

    def __init__(self, log: Path) -> None:
        self._asked: list[Path] = []
        self._open = True

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open = False

    def prepare(self) -> None:
        pass

    def start(self, arguments: Sequence[str], log: Path) -> Callable[[], None]:
        (out,) = [word.removeprefix("--out=") for word in arguments if word.startswith("--out=")]
        self._asked.append(Path(out))

        def wait() -> None:
            assert self._open
            folder = self._asked.pop(0)
            folder.mkdir(parents=True, exist_ok=True)
            mean = NUMBERS[folder.name]
            benchmarks = {"heldout": mean, "heldout-greedy": mean}
            (folder / "summary.json").write_text(json.dumps({"benchmarks": benchmarks}))

        return wait


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan whose run is there, with nothing evaluated."""
    plan = Plan(tmp_path, batches=1)
    plan.run_dir.mkdir()
    (plan.run_dir / "finished.json").write_text("{}")
    monkeypatch.setattr(pipeline, "Evaluator", Evaluator)
    monkeypatch.setattr(pipeline, "read_run", lambda folder, name: SimpleNamespace(train=[1]))
    for name in ("_build", "_check_gpus", "plot_run", "write_report"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    return plan


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("there", [(), ("before",), ("after",), ("before", "after")])
def test_a_finished_run_is_evaluated_where_it_was_not(
    finished: Plan,
    there: tuple[str, ...],
    beside: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pipeline.cpu, "is_active", lambda: beside)
    for name in there:
        Evaluator(Path()).start([f"--out={finished.out / name}"], Path())()
    assert pipeline.execute(finished) == 0
    shown = capsys.readouterr().out
    for name, accuracy in (("before", "25.0"), ("after", "75.0")):
        assert f"{name} training: sampled {accuracy}" in shown


def test_a_report_that_fails_costs_no_training(
    finished: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does an interruption, while the job of a run that is finished comes to its end."""
    (finished.run_dir / "finished.json").unlink()
    trainings = []

    def run_job(*_: Any, trained: Callable[[], None], **__: Any) -> None:
        trainings.append(1)
        (finished.run_dir / "finished.json").write_text("{}")
        trained()

    monkeypatch.setattr(pipeline, "run_job", run_job)
    monkeypatch.setattr(
        pipeline, "LocalCluster", lambda log: nullcontext(SimpleNamespace(dashboard=""))
    )
    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "write_report", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.execute(finished)
    assert pipeline.execute(finished) == 0
    assert len(trainings) == 1


def test_another_model_has_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(command, "execute", lambda plan: plans.append(plan) or 0)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    agent = ["--agent", "--moe"]
    for words in ([], ["--moe"], ["--moe", "--seed", "1"], ["--moe", "--out", "mine"], agent):
        assert command.main(words) == 0
    assert [plan.out.relative_to(tmp_path).as_posix() for plan in plans] == [
        "runs/quickstart-seed0",
        "runs/quickstart-moe-seed0",
        "runs/quickstart-moe-seed1",
        "mine",
        "runs/quickstart-moe-agent-seed0",
    ]
    assert [plan.moe for plan in plans] == [False, True, True, True, True]
    assert [plan.agent for plan in plans] == [False] * 4 + [True]


def test_a_mixture_is_trained_as_a_dense_model_is(tmp_path: Path) -> None:
    dense, mixture = (training_flags(Plan(tmp_path, moe=moe)) for moe in (False, True))
    assert mixture == dense


def test_an_agent_scores_its_own_episodes(tmp_path: Path) -> None:
    single, agent = (training_flags(Plan(tmp_path, agent=agent)) for agent in (False, True))
    assert "--reward.remote_url" in single
    assert "--train.agent_func_path" not in single
    assert "--reward.remote_url" not in agent
    path = agent[agent.index("--train.agent_func_path") + 1]
    assert load_agent(path).__name__ == "Calculator"


def test_a_run_of_a_dense_model_is_not_gone_on_with_as_one_of_a_mixture(tmp_path: Path) -> None:
    dense = Plan(tmp_path)
    dense.run_dir.mkdir()
    for product in PRODUCTS:
        (dense.built / product).mkdir(parents=True)
    manifest = {
        "settings": dense.model.as_manifest(),
        "files": file_hashes(dense.built),
        "sampled_accuracy": 0.4,
        "greedy_accuracy": 0.0,
    }
    (dense.built / "manifest.json").write_text(json.dumps(manifest))
    pipeline._build(dense)  # found
    with pytest.raises(ValueError, match=r"another model .* --moe.* --out"):
        pipeline._build(replace(dense, moe=True))
    with pytest.raises(ValueError, match=r"another model .* --agent.* --out"):
        pipeline._build(replace(dense, agent=True))


def test_a_run_of_a_model_that_is_built_otherwise_now_is_left_alone(tmp_path: Path) -> None:
    plan = Plan(tmp_path, batches=1)
    (tmp_path / "before").mkdir()
    plan.built.mkdir()
    (plan.built / "manifest.json").write_text(json.dumps({"settings": {"recipe": 1}}))
    with pytest.raises(ValueError, match=r"another model .* --out"):
        pipeline._build(plan)
