"""Accuracy of models on benchmarks, by `vespo eval run`, as the recorded run put its prompts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vespo_openrlhf.agents.loading import defines_executor
from vespo_openrlhf.eval.commands.flags import add_run_options, run_of
from vespo_openrlhf.eval.commands.presets import parse_with_preset
from vespo_openrlhf.eval.running.execution import left_to_do
from vespo_openrlhf.eval.running.plan import plan
from vespo_openrlhf.quickstart.evaluator import Evaluator

_SUMMARY = "summary.json"


class Mean(NamedTuple):
    """A mean with its standard error, which None is where there is none."""

    mean: float
    standard_error: float | None


class Accuracy:
    """Evaluates models.

    Args:
        evaluator: runs the evaluations.
        benchmarks: as `vespo eval run` takes them.
        flags: of the run, completed: how long a response may be, and how a prompt is put.
    """

    def __init__(self, evaluator: Evaluator, benchmarks: str, flags: Mapping[str, Any]) -> None:
        self._evaluator = evaluator
        options: dict[str, Any] = {
            "benchmarks": _absolute(benchmarks),
            "max-tokens": flags["rollout.max_new_tokens"] or flags["data.max_len"],
        }
        agent = flags["train.agent_func_path"]
        if agent and not defines_executor(agent):
            options["agent"] = Path(agent).resolve()
        self._words = [f"--{name}={value}" for name, value in options.items()]
        if not flags["data.apply_chat_template"]:
            self._words.append("--raw")
            if template := flags["data.input_template"]:
                self._words.append(f"--template={template.replace('{}', '{problem}')}")

    def check(self, model: str) -> None:
        """Read the benchmarks, and put them to a model's tokenizer.

        Raises:
            ValueError: anything wrong with them.
        """
        self._planned(model)

    def of(self, model: str, out: Path) -> dict[str, Mean]:
        """Evaluate a model, unless it has been done.

        Args:
            model: its folder, or a hub id.
            out: folder for the records.

        Returns:
            avg@k of each benchmark.

        Raises:
            RuntimeError: it failed; the message holds the end of its log.
        """
        summary = out / _SUMMARY
        try:
            left = left_to_do(self._planned(model), out, fresh=False)
        except ValueError as error:
            raise RuntimeError(f"{model} cannot be evaluated: {error}") from error
        if left or not summary.exists():
            log = out.with_name(f"{out.name}.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            self._evaluator.start([*self._of_model(model), f"--out={out}"], log)()
        found = json.loads(summary.read_text(encoding="utf-8"))["benchmarks"]
        return {name: Mean(s["avg@k"], s["standard_error"]) for name, s in found.items()}

    def _planned(self, model: str) -> Any:
        parser = argparse.ArgumentParser()
        add_run_options(parser)
        return plan(run_of(parse_with_preset(parser, self._of_model(model))))

    def _of_model(self, model: str) -> list[str]:
        # An evaluation has another working directory.
        return [*self._words, f"--model={Path(model).resolve() if Path(model).is_dir() else model}"]


def _absolute(benchmarks: str) -> str:
    """With whole paths where they name files."""
    parts = []
    for part in benchmarks.split(","):
        file, colon, rest = part.strip().partition(":")
        parts.append(f"{Path(file).resolve() if Path(file).is_file() else file}{colon}{rest}")
    return ",".join(parts)
