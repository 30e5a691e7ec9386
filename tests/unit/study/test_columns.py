"""The task for a GPU, at a size for none, and the preset that runs it."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.study import runner
from vespo_openrlhf.study.__main__ import build_parser, build_study, main
from vespo_openrlhf.study.presets import CONTROL, PRESETS
from vespo_openrlhf.study.runner import run_missing
from vespo_openrlhf.study.store import Store
from vespo_openrlhf.study.tasks import get_task, response_mask
from vespo_openrlhf.study.tasks.columns import END, VOCABULARY, Columns

ROOT = Path(__file__).parents[3]


class Small(Columns):
    digits = 3
    prompt_tokens = 2 * digits + 2
    max_response_tokens = 9 * digits + digits + 4


TASK = Small()
PROBLEM = (3, 4, 7, 5, 8, 6)


def decode(ids: list[int]) -> str:
    return "".join(VOCABULARY[i] for i in ids)


def test_a_sum_is_worked_by_its_columns() -> None:
    (row,) = TASK.demonstrations([PROBLEM], 0.0, seed=0).tolist()
    assert decode(row) == "347+586=7+6+0=13;4+8+1=13;3+5+1=09;[0933]<end>"
    assert len(row) == TASK.max_tokens


def test_only_the_answer_counts_and_slips_fall_on_digits() -> None:
    (problems,) = TASK.split(0, [200])
    answers = TASK.encode_answers(problems)
    shown = TASK.demonstrations(problems, 0.02, seed=1)
    responses = shown[:, TASK.prompt_tokens :]
    assert response_mask(responses, END).all()
    right = TASK.is_right(responses, answers)
    assert right.tolist() == (responses[:, -answers.shape[1] :] == answers).all(dim=1).tolist()
    assert 0.8 < right.double().mean() < 1
    work = -answers.shape[1]
    assert (shown != TASK.demonstrations(problems, 0.0, seed=1))[right, :work].any()
    assert not TASK.is_right(torch.full_like(responses, 3), answers).any()


def test_its_policy_is_that_of_the_other_tasks() -> None:
    (problems,) = TASK.split(0, [4])
    policy = TASK.policy(16, 1, 2)
    drawn = policy.sample(TASK.encode_prompts(problems), torch.Generator().manual_seed(0))
    recomputed = policy.log_probs(drawn.ids)
    torch.testing.assert_close(recomputed[drawn.mask], drawn.log_probs[drawn.mask])


def test_the_preset_has_the_size_of_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    study = build_study(build_parser().parse_args(["--preset", "gpu"]))
    policy = get_task("columns").policy(study.recipe.width, study.recipe.layers, study.recipe.heads)
    assert sum(parameter.numel() for parameter in policy.parameters()) > 7e6
    assert study.cells()[0].learning_rate == Columns.learning_rate
    if not torch.cuda.is_available():
        assert main(["--preset", "gpu"]) == 2
        assert "--device cpu" in capsys.readouterr().err


def test_after_its_time_no_run_is_begun(tmp_path) -> None:
    study = PRESETS["quick"]
    store = Store(tmp_path, replace(study.recipe, updates=64))
    cells = study.cells()[:2]
    run_missing(cells, store, 1, title="late", progress=False, until=time.time() - 1)
    assert store.missing(cells) == cells


def test_a_study_that_has_only_its_controls_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As --minutes may leave it; a report without a comparison could not be drawn."""

    def only_controls(cells, store, *_, **__) -> None:
        for cell in cells:
            if cell.loss == CONTROL:
                store.save(cell, {})

    monkeypatch.setattr(runner, "run_missing", only_controls)
    assert main(["--preset", "quick", "--minutes", "1", "--out", str(tmp_path)]) == 1
    assert "no run but of the control is finished" in capsys.readouterr().err


def test_a_study_is_run_seed_by_seed_its_control_with_each() -> None:
    """On a GPU the control is the last of a seed: it takes as long as several of the others."""
    for preset, place in (("quick", 0), ("gpu", -1)):
        cells = PRESETS[preset].cells()
        assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
        of_first = [cell for cell in cells if cell.seed == cells[0].seed]
        assert [c.updates_per_batch for c in of_first].count(1) == 1
        assert of_first[place].updates_per_batch == 1


def test_torch_alone_is_enough(tmp_path: Path) -> None:
    """As on a GPU machine that has nothing else; the worker processes included."""
    absent = (
        "tqdm scipy matplotlib transformers tokenizers ray vllm openrlhf deepspeed psutil pandas"
    )
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {absent.split()!r}:\n    sys.modules[name] = None\n"
    )
    words = "--task uneven --loss VESPO --n 8 --seeds 1 --updates 64 --processes 1 --out out"
    done = subprocess.run(
        [sys.executable, "-m", "vespo_openrlhf.study", *words.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "without matplotlib and scipy there are no tests" in done.stdout
    table = (tmp_path / "out" / "table.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:4]] == ["| on-policy", "| VESPO"]
