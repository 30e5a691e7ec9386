"""Folders as training and evaluation leave them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def make_run(
    folder: Path,
    lines: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    versions: dict[str, Any] | None = None,
    updates: list[dict[str, Any]] | None = None,
) -> Path:
    """A run folder as training leaves it."""
    folder.mkdir(parents=True)
    lines = [line(step) for step in range(1, 13)] if lines is None else lines
    text = "".join(json.dumps(entry) + "\n" for entry in lines)
    (folder / "metrics.jsonl").write_text(text)
    if updates is not None:
        text = "".join(json.dumps(entry) + "\n" for entry in updates)
        (folder / "updates.jsonl").write_text(text)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if versions is not None:
        (folder / "versions.json").write_text(json.dumps(versions))
    return folder


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
        "scheduler/samples_per_second": 50.0,
        "scheduler/trainer_idle": 0.3,
        "scheduler/engine_idle": 0.2 * share,
        "lag/max": 2,
        "lag_tokens/0": 0.25,
        "lag_tokens/2": 0.75,
        "something/new": step**2,
        "always": 7.0,
        "generated_samples": [f"user\n1+{step}\nassistant\n\\boxed{{{step + 1}}}", float(step > 3)],
        **more,
    }


def update_line(update: int, per_batch: int = 4, **more: Any) -> dict[str, Any]:
    """A line of `updates.jsonl`, in a run with so many updates to a batch."""
    return {
        "update": update,
        "step": 1 + update // per_batch,
        "mini_batch": update % per_batch,
        "policy_loss": 0.1,
        "rollout_kl": 0.01 * (update % per_batch),
        "rollout_log_ppl": 0.5,
        "vespo/grad_norm": 1.0 + update,
        "vespo/ess_ratio": 0.5,
        **{f"vespo/log_w_{q}": value for q, value in QUANTILES.items()},
        **more,
    }


QUANTILES = {"p05": -1.0, "p50": 0.0, "p95": 1.0}


def make_evaluation(
    folder: Path,
    benchmarks: dict[str, tuple[int, int]] | None = None,
    *,
    model: str = "a/model",
    right_below: float = 0.5,
    response: str = "Thinking. \\boxed{{{answer}}}",
    settings: dict[str, Any] | None = None,
) -> Path:
    """A folder of `vespo eval run`: benchmark -> (problems, repeats).

    A generation is right, wrong, cut off or without an answer in a fixed pattern. The metrics in
    `summary.json` are not those of the records: a report shows them and does not work them out.
    """
    benchmarks = benchmarks or {"aime24": (12, 8), "math500": (60, 1)}
    summary = {}
    for name, (problems, repeats) in benchmarks.items():
        (folder / name).mkdir(parents=True)
        with open(folder / name / "generations.jsonl", "w", encoding="utf-8") as file:
            for problem in range(problems):
                for repeat in range(repeats):
                    record = generation(name, problem, repeat, right_below, response)
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
        summary[name] = metrics(problems, repeats)
    manifest = {
        "model": model,
        "revision": None,
        "settings": {"temperature": 1.0, "max_tokens": 4096, **(settings or {})},
        "benchmarks": {name: {"rows": n, "repeats": k} for name, (n, k) in benchmarks.items()},
        "versions": {"vllm": "0.29.0"},
        "created": "2026-01-01T00:00:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    whole = {"model": model, "benchmarks": summary, "average": 0.5}
    (folder / "summary.json").write_text(json.dumps(whole))
    return folder


def metrics(problems: int, repeats: int) -> dict[str, Any]:
    """A benchmark's part of `summary.json`, in the shape of `eval.metrics.summarise`."""
    ks = [str(2**i) for i in range(repeats.bit_length())]
    return {
        "problems": problems,
        "repeats": repeats,
        "avg@k": 0.5,
        "standard_error": 0.05,
        "interval": [0.4, 0.6],
        "pass@k": {k: 0.5 + 0.05 * i for i, k in enumerate(ks)},
        "pass@k_interval": {k: [0.4, 0.7] for k in ks},
        "pass^k": dict.fromkeys(ks, 0.4),
        "maj@k": dict.fromkeys(ks, 0.55),
        "extraction_rate": 0.8,
        "truncation_rate": None,
        "timeout_rate": 0.0,
        "unverified_rate": 0.0,
        "length": {
            "mean": 1234.5,
            "median": 1000,
            "p95": 4000,
            "mean_correct": 900,
            "mean_wrong": None,
        },
        "tokens_per_second": 2000.0,
    }


def generation(
    benchmark: str, problem: int, repeat: int, right_below: float, response: str
) -> dict[str, Any]:
    """One record, with a verdict that follows from its place."""
    correct = (7 * problem + 3 * repeat) % 20 / 20 < right_below
    reason = "correct" if correct else ("wrong", "no_answer", "truncated")[(problem + repeat) % 3]
    answer = None if reason in ("no_answer", "truncated") else str(problem + (not correct))
    return {
        "benchmark": benchmark,
        "id": f"p{problem}",
        "repeat": repeat,
        "prompt": f"What is {problem} + 0? Is 1 < 2 & 3 > 2?",
        "gold": str(problem),
        "response": response.format(answer=answer),
        "tokens": 100 + 40 * ((problem * 5 + repeat * 11) % 37),
        "finish_reason": "length" if reason == "truncated" else "stop",
        "extracted": answer,
        "correct": correct,
        "reason": reason,
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """(name, lines, config, versions) -> the folder."""
    return lambda name="run", **content: make_run(tmp_path / name, **content)


@pytest.fixture
def evaluation_folder(tmp_path: Path) -> Callable[..., Path]:
    """(name, benchmarks, ...) -> the folder."""
    return lambda name="evaluation", **content: make_evaluation(tmp_path / name, **content)


@pytest.fixture
def metrics_line() -> Callable[..., dict[str, Any]]:
    return line


@pytest.fixture
def updates_line() -> Callable[..., dict[str, Any]]:
    return update_line
