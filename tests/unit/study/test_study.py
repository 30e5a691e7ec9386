"""The study itself, at a size that takes seconds: runs, resumption, the report."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

from vespo_openrlhf.losses import LossInputs, get_policy_loss
from vespo_openrlhf.study.__main__ import build_parser, build_study, main, parse_loss
from vespo_openrlhf.study.analysis import Analysis, choose
from vespo_openrlhf.study.cells import Cell, LossSetting, Recipe
from vespo_openrlhf.study.page import write_report
from vespo_openrlhf.study.presets import (
    CANDIDATES,
    CONTROL,
    PRESETS,
    PUBLISHED,
    Grid,
    Study,
    Tuning,
)
from vespo_openrlhf.study.runner import run_missing
from vespo_openrlhf.study.store import Store
from vespo_openrlhf.study.trainer import LOG_W_BINS, run_cell
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


def test_the_presets_say_what_the_committed_runs_were() -> None:
    """Token-mean SAPO and GRPO without a dual clip, whatever the losses' defaults are by now."""
    tuned = (setting for settings in CANDIDATES.values() for setting in settings)
    for setting in (*PUBLISHED.values(), *tuned):
        options = get_policy_loss(setting.name, **setting.options).options
        assert options.get("loss_agg_mode", "token-mean") == "token-mean"
        assert options.get("dual_clip", math.inf) == math.inf
        assert options.get("length_normalisation", "none") == "none"


@pytest.mark.parametrize("label", [name for name in PUBLISHED if name not in ("GSPO", "GMPO")])
def test_one_control_serves_all_token_mean_losses(label: str) -> None:
    """On-policy, W = 1, and their gradients are that of REINFORCE: so it is with SAPO as it ran."""
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
        Tuning(Grid((), (8,), seeds), (9,), {name: CANDIDATES[name] for name in ("VESPO", "GRPO")}),
        recipe=RECIPE,
    )


def test_a_study_resumes_and_reports(tmp_path) -> None:
    study, store = tiny_study(), Store(tmp_path, RECIPE)
    cells = study.cells()
    run_missing(cells[:3], store, 1, title="part", progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(before) == 3
    partial = Analysis(study, store)
    assert partial.missing == len(cells) - 3
    assert partial.tuned() == []

    tuning = study.tuning
    assert tuning is not None
    run_missing([*cells, *tuning.cells()], store, 1, title="rest", progress=False)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    run_missing(tuning.report(choose(study, store)), store, 1, title="tuned", progress=False)

    summary = write_report(Analysis(study, store), tmp_path / "out", {"command": "none"})
    assert summary["missing_runs"] == 0
    assert {(row["loss"], row["N"]) for row in summary["table"]} == {
        ("on-policy", 1),
        *((label, n) for label in ("VESPO", "GRPO") for n in (2, 8)),
    }
    assert [row["claim"] for row in summary["claims"]] == ["VESPO above GRPO"] * 2
    assert [row["loss"] for row in summary["tuned"]] == ["VESPO", "GRPO"]
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


def test_a_killed_process_is_an_error_and_not_a_wait(tmp_path) -> None:
    """multiprocessing.Pool would wait for ever for what its dead worker was running."""
    (tmp_path / "deadly.py").write_text(
        "import os\n\n\ndef loss(inputs):\n    os._exit(9)\n", encoding="utf-8"
    )
    loss = LossSetting("deadly", f"{tmp_path / 'deadly.py'}:loss")
    store = Store(tmp_path, RECIPE)
    with pytest.raises(RuntimeError, match="give the same command again"):
        run_missing([Cell(loss, 2, seed=1)], store, 1, title="deadly", progress=False)


FIGURES = ("accuracy-1", "accuracy-2", "final", "log-w", "ess", "kernel")


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


def test_the_presets_are_sound() -> None:
    for study in PRESETS.values():
        assert len({(*c.condition(), c.loss.label, c.seed) for c in study.cells()}) == len(
            study.cells()
        )
    tuning = PRESETS["paper"].tuning
    assert tuning is not None
    assert not set(tuning.seeds) & set(tuning.grid.seeds)
    assert {len(settings) for settings in tuning.candidates.values()} == {3}
    for settings in tuning.candidates.values():
        for setting in settings:
            get_policy_loss(setting.name, **setting.options)


AS_RUN = {
    "VESPO": {"c1_pos": 2.0, "c2_pos": 3.0, "c1_neg": 3.0, "c2_neg": 2.0, "anchor": "rollout"},
    "GRPO": {
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dual_clip": math.inf,
        "loss_agg_mode": "token-mean",
    },
    "GSPO": {"clip_low": 3e-4, "clip_high": 4e-4},
    "SAPO": {"tau_pos": 1.0, "tau_neg": 1.05, "loss_agg_mode": "token-mean"},
    "REINFORCE": {"loss_agg_mode": "token-mean"},
    "CISPO": {"weight_low": 0.0, "weight_high": 5.0},
    "TOPR": {"anchor": "rollout", "loss_agg_mode": "token-mean"},
    "GMPO": {"clip_low": 0.4, "clip_high": 0.4},
    "TIS": {"level": "token", "cap": 2.0},
}


@pytest.mark.parametrize("label", PUBLISHED)
def test_the_settings_are_those_of_the_committed_runs(label: str) -> None:
    """docs/study was run with these: another default of a loss must not rename its results."""
    setting = PUBLISHED[label]
    resolved = get_policy_loss(setting.name, **setting.options).options
    assert {name: resolved[name] for name in AS_RUN[label]} == AS_RUN[label]


def test_the_command_line_replaces_axes() -> None:
    options = build_parser().parse_args(
        "--preset paper --loss gspo,clip_low=0.03,clip_high=0.04 VESPO --n 16 --seeds 7 --lag 5 "
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
    assert parse_loss("GRPO,clip_low=0.1").options == {"dual_clip": math.inf, "clip_low": 0.1}
    assert parse_loss("my.py:f") == LossSetting("my.py:f", "my.py:f")
    assert build_study(build_parser().parse_args(["--preset", "kernel"])) is PRESETS["kernel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "vespa"], "unknown policy loss 'vespa'"),
        (["--loss", "vespo,c1_pos=-0.5"], "c1_pos must be at least 0"),
        (["--loss", "vespo,c1_pos"], "write c1_pos=VALUE"),
        (["--n", "0"], "N must be at least 1"),
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
