"""Worked problems before the one that is asked."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from vespo_openrlhf.eval.benchmarks.benchmark import Benchmark
from vespo_openrlhf.eval.benchmarks.loading import Loaded, Problem, load
from vespo_openrlhf.eval.benchmarks.templates import Template
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.rows import KINDS


@dataclass(frozen=True)
class Examples:
    """Where the examples of a benchmark come from, in the order that the seed gives them.

    Attributes:
        loaded: the file or split they are from.
        count: before each problem.
        seed: of the order. Problems have the same examples, so that their prompts share a prefix.
    """

    loaded: Loaded
    count: int
    seed: int

    def before(self, problem: Problem, template: Template) -> list[tuple[str, str]]:
        """Question and answer of each example before a problem; none of them is that problem."""
        order = list(self.loaded.problems)
        random.Random(f"{self.seed}/{self.loaded.benchmark.name}").shuffle(order)
        others = [other for other in order if _key(other.text) != _key(problem.text)]
        return [self._pair(example, template) for example in others[: self.count]]

    def _pair(self, example: Problem, template: Template) -> tuple[str, str]:
        question = self.loaded.ask(example, self.seed, 0)
        answer = parse_label(question.gold).answer.strip("$ ")
        parts = [example.solution.strip()]
        if not template.require_box:
            parts.append(f"Answer: {answer}")
        elif "\\boxed" not in example.solution:
            parts.append(f"The answer is \\boxed{{{answer}}}.")
        return question.text, "\n\n".join(filter(None, parts))


def load_examples(
    benchmark: Benchmark, count: int, seed: int, file: str = "", data_dir: Path | None = None
) -> Examples:
    """The examples of a benchmark.

    Args:
        benchmark: whose problems they precede.
        count: before each problem, 1 or more.
        seed: of their order.
        file: to take instead of the benchmark's own `few_shot`.
        data_dir: where the benchmark is read from, if not from the hub.

    Raises:
        ValueError: it has none, they cannot be read, or there are too few.
    """
    source = file or benchmark.few_shot
    is_file = Path(source).suffix.lower() in KINDS
    if not source or (not is_file and (data_dir is not None or not benchmark.hub)):
        raise ValueError(
            f"--few-shot: benchmark {benchmark.name} has no examples "
            + ("of its own" if not source else f"but split {source} of the hub")
            + ": name a file of worked problems with --few-shot-from"
        )
    # A name of its own: no file of the benchmark's is taken for it, nor its number of rows asked.
    own = replace(
        benchmark, name=f"{benchmark.name}-examples", rows=None, tolerance_column="", few_shot=""
    )
    own = replace(own, hub="", path=source) if is_file else replace(own, split=source)
    loaded = load(own)
    if len(loaded.problems) <= count:  # one of them may be the problem that is asked
        raise ValueError(
            f"--few-shot {count}: {loaded.source} holds {len(loaded.problems)} problems, and there "
            "must be more, since the one that is asked is left out"
        )
    return Examples(loaded, count, seed)


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()
