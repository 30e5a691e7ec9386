"""The study itself, at a size that takes seconds: runs, resumption, the report."""

import csv
import json
import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch

from vespo_openrlhf.losses import LossInputs, get_policy_loss
from vespo_openrlhf.study.__main__ import build_parser, build_study, main, parse_loss, run
from vespo_openrlhf.study.analysis import Analysis
from vespo_openrlhf.study.cells import Cell, LossSetting, Recipe
from vespo_openrlhf.study.figures import final_accuracy
from vespo_openrlhf.study.page import write_report
from vespo_openrlhf.study.plain import write_table
from vespo_openrlhf.study.presets import (
    CONTROL,
    FAMILIES,
    PRESETS,
    PUBLISHED,
    Grid,
    Study,
)
from vespo_openrlhf.study.runner import run_missing
from vespo_openrlhf.study.store import Store
from vespo_openrlhf.study.tasks import get_task
from vespo_openrlhf.study.trainer import LOG_W_BINS, run_cell
from vespo_openrlhf.study.tuning import Tuning
from vespo_openrlhf.study.warm_start import warm_start

RECIPE = Recipe(
    updates=8,
    groups_per_update=2,
    group_size=4,
    evaluate_every=2,
    evaluation_problems=16,
    last_evaluations=2,
    width=16,
    warm_steps=4,
    warm_batch=8,
)
VESPO, GRPO = PUBLISHED["VESPO"], PUBLISHED["GRPO"]


@pytest.fixture
def start(tmp_path):
    return warm_start(1, RECIPE, tmp_path / "warm_starts")


def test_a_run_is_reproducible_and_says_what_happened(start) -> None:
    cell = Cell(VESPO, updates_per_batch=4, seed=1, lag=3)
    first, again = (run_cell(cell, RECIPE, start) for _ in range(2))
    clocks = dict.fromkeys(("seconds", "cpu_seconds"))
    assert first | clocks == again | clocks
    assert [update for update, _ in first["evaluations"]] == [0, 2, 4, 6, 8]
    assert {len(curve) for curve in first["updates"].values()} == {8}
    assert len(first["log_w_histogram"]) == LOG_W_BINS
    assert sum(first["log_w_histogram"]) == 8 * 2 * 4
    assert json.loads(json.dumps(first))


@pytest.mark.parametrize(
    ("n", "lag", "longest"),
    # The first batch is sampled at 0 and used up to N - 1; the last at 8 - N - lag, used up to 7.
    [(1, 0, 0), (4, 0, 3), (8, 0, 7), (4, 2, 5), (2, 3, 4), (1, 5, 5), (3, 1, 3)],
)
def test_the_lag_is_what_n_and_lag_make_it(start, n: int, lag: int, longest: int) -> None:
    result = run_cell(Cell(CONTROL, n, seed=1, lag=lag), RECIPE, start)
    assert result["lag"]["max"] == longest


def test_fresh_samples_have_a_weight_of_one_and_old_ones_do_not(start) -> None:
    cell = Cell(VESPO, updates_per_batch=4, seed=1, learning_rate=1e-2)
    # An untrained policy is never right: reward it for the first digit instead.
    result = run_cell(replace(cell, mu_noise=0.1), RECIPE, start)
    noisy = result["updates"]["log_w_abs_mean"]
    assert min(noisy) > 0.05
    fresh = run_cell(cell, RECIPE, start)["updates"]
    assert fresh["log_w_abs_mean"][0] < 1e-4
    assert fresh["ess"][0] == pytest.approx(1.0, abs=1e-6)
    assert fresh["phi_mean"][0] == pytest.approx(1.0, abs=1e-4)


def test_a_bfloat16_sampler_is_a_mismatch_from_the_first_update_on(start) -> None:
    cell = Cell(VESPO, updates_per_batch=4, seed=1, sampler_dtype="bfloat16")
    assert run_cell(cell, RECIPE, start)["updates"]["log_w_abs_mean"][0] > 1e-4


def test_a_loss_that_reads_old_log_probs_gets_them(start) -> None:
    cell = Cell(LossSetting("decoupled", "decoupled_ppo"), 4, seed=1, lag=2)
    assert run_cell(cell, RECIPE, start)["evaluations"]


@pytest.mark.parametrize(
    "label", [name for name in PUBLISHED if name not in ("GSPO", "GMPO", "SAPO")]
)
def test_one_control_serves_all_token_mean_losses(label: str) -> None:
    """On-policy, W = 1, and their gradients are that of REINFORCE."""
    torch.manual_seed(0)
    log_probs = -torch.rand(6, 5, dtype=torch.float64)
    advantages = torch.randn(6, 1, dtype=torch.float64).expand(6, 5)
    mask = torch.arange(5) < torch.tensor([5, 4, 3, 5, 1, 2])[:, None]
    gradients = []
    for setting in (CONTROL, PUBLISHED[label]):
        current = log_probs.clone().requires_grad_()
        inputs = LossInputs(
            log_probs=current,
            advantages=advantages,
            action_mask=mask,
            rollout_log_probs=log_probs,
        )
        loss, _ = get_policy_loss(setting.name, **setting.options)(inputs)
        loss.backward()
        gradients.append(current.grad)
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-6)


def tiny_study() -> Study:
    seeds = (1, 2)
    return Study(
        "tiny",
        "Does it run?",
        (Grid((CONTROL,), (1,), seeds), Grid((VESPO, GRPO), (2, 8), seeds)),
        Tuning(tuple(f for f in FAMILIES if f.label in ("VESPO", "TOPR")), 8, (9,), seeds),
        recipe=RECIPE,
    )


def test_a_study_resumes_and_reports(tmp_path) -> None:
    study, store = tiny_study(), Store(tmp_path, RECIPE)
    cells = study.cells()
    run_missing(cells[:3], store, 1, title="part", progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(before) == 3
    partial = Analysis(study, store)
    assert partial.missing == len(cells) - 3 + 2 * 9  # and the tuning's
    assert partial.tuned() == []

    run(study, store, 1, full_stack=False, progress=False)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())

    summary = write_report(Analysis(study, store), tmp_path / "out", {"command": "none"})
    assert summary["missing_runs"] == 0
    assert {(row["loss"], row["N"]) for row in summary["table"]} == {
        ("on-policy", 1),
        *((label, n) for label in ("VESPO", "GRPO") for n in (2, 8)),
    }
    assert [row["claim"] for row in summary["claims"]] == ["VESPO above GRPO"] * 2
    assert [row["loss"] for row in summary["tuned"]] == ["VESPO", "TOPR"]
    written = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written >= {"report.html", "summary.json", "tables.md", "table.csv", "claims.csv"}
    assert written >= {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure") == len(FIGURES)
    assert {row["verdict"] for row in summary["claims"]} == {"open"}  # two seeds
    with open(tmp_path / "out" / "runs.csv") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == len(list((tmp_path / "runs").iterdir()))
    assert {row["seed"] for row in runs} == {"1", "2", "9"}


def test_a_run_that_fails_is_named(tmp_path) -> None:
    (tmp_path / "wrong.py").write_text(
        "def loss(inputs):\n    raise ArithmeticError('no such number')\n", encoding="utf-8"
    )
    loss = LossSetting("wrong", f"{tmp_path / 'wrong.py'}:loss")
    store = Store(tmp_path, RECIPE)
    named = r"the run of wrong at N = 2, learning rate 0\.0003, seed 1 failed: ArithmeticError: no"
    with pytest.raises(RuntimeError, match=named):
        run_missing([Cell(loss, 2, seed=1)], store, 1, title="wrong", progress=False)


def test_a_full_disk_ends_the_study_with_a_word(tmp_path, monkeypatch, capsys) -> None:
    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vespo_openrlhf.study.runner.run_missing", full)
    assert main(["--out", str(tmp_path)]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_killed_process_is_an_error_and_not_a_wait(tmp_path) -> None:
    """multiprocessing.Pool would wait for ever for what its dead worker was running."""
    (tmp_path / "deadly.py").write_text(
        "import os\n\n\ndef loss(inputs):\n    os._exit(9)\n", encoding="utf-8"
    )
    loss = LossSetting("deadly", f"{tmp_path / 'deadly.py'}:loss")
    store = Store(tmp_path, RECIPE)
    with pytest.raises(RuntimeError, match="give the same command again"):
        run_missing([Cell(loss, 2, seed=1)], store, 1, title="deadly", progress=False)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_where_the_study_itself_is_killed(tmp_path, how: signal.Signals) -> None:
    """As by a time limit: its workers finished their run and then waited, with a GPU's memory."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n\n\ndef loss(inputs):\n"
        f"    pathlib.Path({str(tmp_path / 'training')!r}).touch()\n    time.sleep(600)\n",
        encoding="utf-8",
    )
    words = ["--loss", f"{tmp_path / 'slow.py'}:loss", "--task", "uneven", "--n", "2"]
    words += ["--seeds", "1", "--processes", "2", "--quiet", "--out", str(tmp_path / "out")]
    study = psutil.Popen([sys.executable, "-m", "vespo_openrlhf.study", *words])
    deadline = time.monotonic() + 300
    while not (tmp_path / "training").exists() and time.monotonic() < deadline:
        assert study.poll() is None
        time.sleep(0.1)
    assert (tmp_path / "training").exists()
    workers = study.children(recursive=True)
    study.send_signal(how)
    _, alive = psutil.wait_procs([study, *workers], timeout=60)
    for process in alive:
        process.kill()
    assert len(workers) >= 2
    assert not alive


FIGURES = ("accuracy-1", "accuracy-2", "final", "log-w", "ess", "kernel")


def test_the_final_figure_shows_one_condition_a_point(tmp_path) -> None:
    """Of N and lag both, N alone, at the least lag; the last of each N stood for all before."""
    study = Study("two axes", "", (Grid((VESPO,), (2, 8), (1,), lags=(0, 4)),), recipe=RECIPE)
    store = Store(tmp_path, RECIPE)
    for cell in study.cells():
        right = 0.9 if cell.lag == 0 else 0.1
        evaluations = [(update, right) for update in range(0, 10, 2)]
        store.save(cell, {"evaluations": evaluations, "updates": {}})
    (line,) = final_accuracy(Analysis(study, store)).axes[0].lines[:1]
    assert list(line.get_ydata()) == [0.9, 0.9]


def test_a_key_names_what_is_computed_and_not_what_it_is_called() -> None:
    cell = Cell(VESPO, 8, seed=1)
    assert cell.key(RECIPE) == replace(cell, loss=LossSetting("ours", "vespo")).key(RECIPE)
    others = [
        replace(cell, seed=2),
        replace(cell, lag=1),
        replace(cell, learning_rate=1e-4),
        replace(cell, loss=LossSetting("VESPO", "vespo", {"c1_pos": 1.0})),
    ]
    assert len({other.key(RECIPE) for other in (cell, *others)}) == 5
    assert cell.key(RECIPE) != cell.key(replace(RECIPE, slip=0.2))


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_are_sound(name: str) -> None:
    study = PRESETS[name]
    facts = {(*c.condition(), c.loss.label, c.seed) for c in study.cells()}
    assert len(facts) == len(study.cells())
    assert study.settings()
    for setting in study.settings():
        get_policy_loss(setting.name, **setting.options)


def test_the_grids_are_those_of_the_protocol() -> None:
    def losses(name: str) -> set[str]:
        return {cell.loss.label for cell in PRESETS[name].cells()} - {"on-policy"}

    primary = {"VESPO", "pessimistic", "taper", "TOPR", "GSPO", "GSPO, wide", "GRPO", "SAPO"}
    assert losses("primary") == primary
    later = {"DPPO", "M2PO", "BAPO", "VCPO", "off-policy mask", "sequence mask", "geometric mask"}
    assert losses("paper") >= primary | later
    assert losses("mismatch") == {
        *(rivals := primary - {"taper"}),
        *(f"{rival}, old" for rival in rivals),
    }
    others = losses("paper") - losses("mismatch")
    assert others > {"taper", "REINFORCE", *later}
    anchored = {f"{other}, old" for other in others - {"taper", "REINFORCE"}}
    assert losses("mismatch-others") == others | anchored
    paper = [cell for cell in PRESETS["paper"].cells() if cell.loss.label == "VESPO"]
    assert {cell.updates_per_batch for cell in paper} == {4, 8, 16, 32, 64}
    assert {cell.lag for cell in paper} == {0, 64}
    assert {cell.learning_rate for cell in paper} == {3e-4, 6e-4}
    for name in ("mismatch", "mismatch-others"):
        cells = PRESETS[name].cells()
        assert {cell.mu_noise for cell in cells} == {0, 0.05, 0.2}
        assert {cell.engine_noise for cell in cells} == {0, 0.05, 0.2}
        assert all(cell.updates_per_batch in (1, 8) for cell in cells)
    full = PRESETS["primary"].full_stack.cells()
    assert len(full) == 12
    assert {cell.loss.label for cell in full} == {"VESPO", "pessimistic", "TOPR", "GRPO"}


def test_a_tuning_widens_and_reports_by_way_of_the_store(tmp_path, monkeypatch) -> None:
    """Accuracy is planted: the better, the wider the kernel, to a point; nothing is trained."""
    families = tuple(family for family in FAMILIES if family.label in ("VESPO", "TOPR"))
    tuning = Tuning(families, 8, (9,), (1, 2), untuned=(CONTROL,))
    study, store = (
        Study("tiny", "Does it tune?", (), tuning, recipe=RECIPE),
        Store(tmp_path, RECIPE),
    )
    stages: list[tuple[str, int]] = []

    def plant(cells, store, processes, *, title, **_) -> None:
        stages.append((title, len(store.missing(cells))))
        for cell in store.missing(cells):
            right = 0.9 - abs(cell.loss.options.get("c1_pos", 2) - 0.5) / 10
            updates = {name: [1.0] * 8 for name in ("length", "log_w_abs_mean", "ess")}
            store.save(
                cell,
                {
                    "evaluations": [(update, right) for update in range(0, 10, 2)],
                    "updates": updates,
                    "lag": {"max": 7, "mean": 3.5},
                    "skipped": 0,
                    "seconds": 1.0,
                },
            )

    monkeypatch.setattr("vespo_openrlhf.study.runner.run_missing", plant)
    for _ in range(2):  # the second time there is nothing to do
        run(study, store, 1, full_stack=False, progress=False)
    # Steps -1 to 1 of both, then -2 and -3 of VESPO's, three learning rates each.
    assert [count for _, count in stages if count] == [18, 3, 3, 6]
    summary = write_report(Analysis(study, store), tmp_path / "out", {"command": "none"})
    by_loss = {row["loss"]: row for row in summary["tuned"]}
    assert by_loss["VESPO"]["chosen"] == "VESPO, kernel x 0.25"
    assert (by_loss["VESPO"]["tried"], by_loss["VESPO"]["at_edge"]) == (15, False)
    assert by_loss["on-policy"]["tried"] is None
    table = write_table(study, store)
    assert "| VESPO, kernel x 0.25 | 8 | 0.0003 | 3 |" in table
    with open(tmp_path / "out" / "runs.csv") as file:
        assert len(list(csv.DictReader(file))) == 30


@pytest.mark.parametrize("task", ["uneven", "long"])
def test_another_task_has_its_own_rates(task: str) -> None:
    parsed = build_parser().parse_args(["--preset", "paper", "--task", task])
    rate = get_task(task).learning_rate
    assert {cell.learning_rate for cell in build_study(parsed).cells()} == {rate, 2 * rate}
    parsed = build_parser().parse_args(["--preset", "tuned", "--task", task])
    tuning = build_study(parsed).tuning
    assert tuning is not None
    assert tuning.learning_rate == rate


def test_the_command_line_replaces_axes() -> None:
    options = build_parser().parse_args(
        "--preset ablation --loss gspo,clip_low=0.03,clip_high=0.04 VESPO --n 16 --seeds 7 --lag 5 "
        "--updates 64".split()
    )
    study = build_study(options)
    assert study.tuning is None
    assert study.recipe.updates == 64
    assert {c.seed for c in study.cells()} == {7}
    control, *compared = study.cells()
    assert (control.updates_per_batch, control.lag) == (1, 0)
    assert {(c.updates_per_batch, c.lag) for c in compared} == {(16, 5)}
    assert {c.loss.label for c in compared} == {"GSPO, clip_low=0.03, clip_high=0.04", "VESPO"}
    assert parse_loss("GRPO,clip_low=0.1").options == {"clip_low": 0.1}
    assert parse_loss("my.py:f") == LossSetting("my.py:f", "my.py:f")
    assert build_study(build_parser().parse_args(["--preset", "kernel"])) is PRESETS["kernel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "vespa"], "unknown policy loss 'vespa'"),
        (["--loss", "vespo,c1_pos=-0.5"], "c1_pos must be at least 0"),
        (["--loss", "vespo,c1_pos"], "write c1_pos=VALUE"),
        (["--n", "0"], "N must be at least 1"),
        (["--preset", "tuned", "--n", "8"], "tuned has no axes to replace"),
        (["--learning-rate", "-1"], "learning rate must be positive"),
        (["--updates", "20"], "multiple of the 16 updates"),
        (["--updates", "16"], "fewer than the last 4"),
        (["--processes", "0"], "--processes must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    arguments: list[str], message: str, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("vespo_openrlhf.study.__main__.run", lambda *_, **__: pytest.fail("ran"))
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
