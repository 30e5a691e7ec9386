"""Run folders as training leaves them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """(name, lines, config, versions) -> the folder."""

    def make(
        name: str = "run",
        lines: list[dict[str, Any]] | None = None,
        config: dict[str, Any] | None = None,
        versions: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines = [line(step) for step in range(1, 13)] if lines is None else lines
        text = "".join(json.dumps(entry) + "\n" for entry in lines)
        (folder / "metrics.jsonl").write_text(text)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        if versions is not None:
            (folder / "versions.json").write_text(json.dumps(versions))
        return folder

    return make


def line(step: int, **more: Any) -> dict[str, Any]:
    """A line of `metrics.jsonl` under the names that the stack logs."""
    share = step / 12
    return {
        "step": step,
        "kind": "train",
        "time": 1000.0 + 10 * step,
        "correct": share,
        "rollout/reward_mean": share,
        "rollout/response_length_mean": 100.0,
        "rollout/num_samples": 512.0,
        "vespo/ess_ratio": 1 - share / 2,
        **{f"vespo/log_w_{q}": q_value * share for q, q_value in QUANTILES.items()},
        "timing/step_total": 10.0,
        "timing/generation": 8.0,
        "timing/make_experience": 1.0,
        "timing/ppo_train": 5.0,
        "timing/broadcast": 1.0,
        "lag/max": 2,
        "lag_tokens/0": 0.25,
        "lag_tokens/2": 0.75,
        "something/new": step**2,
        "always": 7.0,
        "generated_samples": [f"user\n1+{step}\nassistant\n\\boxed{{{step + 1}}}", float(step > 3)],
        **more,
    }


QUANTILES = {"p05": -1.0, "p50": 0.0, "p95": 1.0}


@pytest.fixture
def metrics_line() -> Callable[..., dict[str, Any]]:
    return line
