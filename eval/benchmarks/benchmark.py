"""The benchmarks: where each one's data is, how a row reads, and what it must hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: what it is called on the command line and in the results.
        hub: its dataset on the Hugging Face hub; empty for a local file.
        config: that dataset's configuration, if it has several.
        split: that dataset's split.
        revision: that dataset's branch, tag or commit; None is the newest. Which commit was read
            is in the manifest either way.
        path: a local file instead of the hub.
        problem: columns that may hold the problem; the first that is there is taken.
        gold: columns that may hold the gold answer, likewise; of a list, the parts are joined.
        id: columns that may hold a problem's id; without one it is the row number, from 0.
        answer_marker: the gold is what follows the last of these in its column (GSM8K's
            ``####``), and so is the answer of a response without a box.
        wrong_choices: columns of the wrong choices; the gold's is then the right one, each repeat
            shows them in an order of its own, which the run's seed decides, and the gold is the
            letter.
        type: how answers are compared: "math", "choice" or "text", as in `reward.labels`.
        tolerance: a number this close to the gold, as a share of it, is right too where exact
            comparison says it is not, see `eval.judging.tolerance`; 0 is none.
        tolerance_column: column with an absolute tolerance of each problem; an empty cell is none.
        solution: columns that may hold a worked solution, for examples.
        few_shot: where examples are: a file with the same columns, or a split of the same dataset.
        rows: how many problems there must be; None is any number but zero.
        repeats: responses to each problem where the command line does not say.
        template: the prompt template, see `eval.benchmarks.templates`.
        licence: of the data.
        aliases: other names that its files go by.
    """

    name: str
    hub: str = ""
    config: str | None = None
    split: str = "test"
    path: str = ""
    problem: tuple[str, ...] = ("problem", "question", "prompt")
    gold: tuple[str, ...] = ("answer", "label", "gold")
    id: tuple[str, ...] = ("unique_id", "id")
    answer_marker: str = ""
    wrong_choices: tuple[str, ...] = ()
    type: str = "math"
    tolerance: float = 0.0
    tolerance_column: str = ""
    solution: tuple[str, ...] = ("solution",)
    few_shot: str = ""
    rows: int | None = None
    repeats: int = 4
    template: str = "qwen"
    licence: str = ""
    aliases: tuple[str, ...] = ()
    revision: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w][\w.-]*", self.name):
            raise ValueError(
                f"benchmark name {self.name!r}: letters, digits, '_', '-' and '.' make a name"
            )
        if bool(self.hub) + bool(self.path) + (self.name == EMBEDDED) != 1:
            raise ValueError(f"benchmark {self.name}: give either hub or path")
        if self.repeats < 1:
            raise ValueError(f"benchmark {self.name}: repeats must be 1 or more")
        if self.type not in ("math", "choice", "text"):
            raise ValueError(f"benchmark {self.name}: type is math, choice or text")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"benchmark {self.name}: tolerance is 0 or more, and less than 1")

    def judged_by(self, require_box: bool) -> dict[str, Any]:
        """What a judge has to know of it, beside each record; `require_box` of the template."""
        how = {"require_box": require_box, "answer_marker": self.answer_marker}
        if self.tolerance or self.tolerance_column:
            how["tolerance"] = self.tolerance
        return how


def squashed(name: str) -> str:
    """A name without letter case and punctuation, by which benchmarks and files are told apart."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


# The paper's repeats: 32 for the small competitions, 16 for AMC, 4 for the larger sets.
_ALL = (
    Benchmark(
        "aime24",
        hub="HuggingFaceH4/aime_2024",
        split="train",
        rows=30,
        repeats=32,
        licence="problems © MAA",
        aliases=("aime2024",),
    ),
    Benchmark(
        "aime25",
        hub="math-ai/aime25",
        rows=30,
        repeats=32,
        licence="Apache-2.0; problems © MAA",
        aliases=("aime2025",),
    ),
    Benchmark(
        "amc23",
        hub="math-ai/amc23",
        rows=40,
        repeats=16,
        licence="problems © MAA",
        aliases=("amc2023", "amc"),
    ),
    Benchmark("math500", hub="HuggingFaceH4/MATH-500", rows=500, licence="MIT"),
    Benchmark(
        "gsm8k",
        hub="openai/gsm8k",
        config="main",
        answer_marker="####",
        solution=("answer",),
        few_shot="train",
        rows=1319,
        licence="MIT",
    ),
    Benchmark(
        "minerva",
        hub="math-ai/minervamath",
        tolerance=1e-5,  # its paper's, arXiv 2206.14858: the listing of its appendix
        rows=272,
        licence="see the dataset's card",
        aliases=("minervamath",),
    ),
    Benchmark(
        "olympiadbench",
        hub="Hothan/OlympiadBench",
        config="OE_TO_maths_en_COMP",
        split="train",
        gold=("final_answer", "answer"),
        tolerance_column="error",
        rows=674,
        licence="Apache-2.0",
        aliases=("olympiad", "olympiadbenchoetomathsencomp", "oetomathsencomp"),
    ),
    Benchmark("beyondaime", hub="ByteDance-Seed/BeyondAIME", rows=100, licence="CC0-1.0"),
    Benchmark(
        "gpqa_diamond",
        hub="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        problem=("Question", "question", "problem"),
        gold=("Correct Answer",),
        id=("Record ID", "unique_id", "id"),
        wrong_choices=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
        type="choice",
        rows=198,
        licence="CC-BY-4.0; gated: accept its terms on the hub first",
        aliases=("gpqa",),
    ),
    Benchmark(EMBEDDED, rows=256, template="plain", licence="Apache-2.0"),
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
