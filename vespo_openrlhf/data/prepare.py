"""From a dataset as published to prompts that training may be run on.

In this order: empty rows out, duplicates out, problems that a benchmark has out, golds that the
verifier cannot use out; then a template is put around each problem, prompts that are longer than
was asked for go out, and a hash of the problem decides its split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vespo_openrlhf.data.account import REASONS, Dropped, Report
from vespo_openrlhf.data.kept_out import benchmark_problems
from vespo_openrlhf.data.overlap import GRAM, SHARE, Index
from vespo_openrlhf.data.publish import check_folder, publish
from vespo_openrlhf.data.sources import SOURCES, read
from vespo_openrlhf.data.steps import clean, progress, short, sound, split, unique
from vespo_openrlhf.eval.benchmarks.templates import find_template


@dataclass(frozen=True)
class Options:
    """What is prepared and how.

    Attributes:
        source: which dataset.
        out: folder for the result.
        files: local files instead of the hub.
        benchmark_data: folder with benchmarks' files; what is not in it is looked for on the hub.
        against: files of problems that are no benchmark of `eval`, to keep out as well.
        template: put around each problem: a name of `eval.benchmarks.templates`, or a text with
            ``{problem}``; empty is the dataset's own.
        validation: share of the problems in the validation split.
        max_prompt_tokens: longer prompts are dropped, with the chat template counted; None keeps
            all.
        tokenizer: a model's folder or hub id, that counts them.
        gram, overlap: see `overlap.Index`.

    Raises:
        ValueError: an unknown source or template, a share that is not within 0 to 1, or a longest
            prompt without a tokenizer.
    """

    source: str
    out: Path
    files: tuple[Path, ...] = ()
    benchmark_data: Path | None = None
    against: tuple[Path, ...] = ()
    template: str = ""
    validation: float = 0.02
    max_prompt_tokens: int | None = None
    tokenizer: str = ""
    gram: int = GRAM
    overlap: float = SHARE

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"unknown dataset {self.source!r}; known are {', '.join(SOURCES)}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"--validation {self.validation}: a share of 0 or more, below 1")
        if self.benchmark_data is not None and not self.benchmark_data.is_dir():
            raise ValueError(f"--benchmark-data {self.benchmark_data}: there is no such folder")
        longest = self.max_prompt_tokens
        if longest is not None and longest < 1:
            raise ValueError(f"--max-prompt-tokens {longest}: 1 or more; leave it out to keep all")
        if (longest is None) != (not self.tokenizer):
            raise ValueError("--max-prompt-tokens and --tokenizer go together: the model's counts")
        if self.template:
            find_template(self.template)
        Index((), gram=self.gram, share=self.overlap)


def prepare(options: Options) -> Report:
    """Prepare a dataset and write it.

    Into `options.out` go `train.parquet` and `validation.parquet` (columns prompt, label, source;
    a split without rows is not written), `README.md` (the data card), `manifest.json` and
    `dropped.jsonl` (every row that was left out but for the plain duplicates, and why).

    Raises:
        ValueError: the dataset cannot be read, nothing of it is left, or `options.out` holds
            another dataset.
    """
    check_folder(options.out, options.source)
    source = SOURCES[options.source]
    report = Report(source.name)
    dropped = Dropped(report)
    template = options.template or source.template
    rows, total, report.origin = read(source, options.files)
    problems = unique(progress(rows, "reading", total), report, dropped)
    known = benchmark_problems(options.benchmark_data, options.against, report)
    index = Index(known, gram=options.gram, share=options.overlap)
    problems = list(clean(progress(problems, "decontaminating"), index, report, dropped))
    problems = list(sound(problems, dropped))
    if options.max_prompt_tokens is not None:
        longest, model = options.max_prompt_tokens, options.tokenizer
        problems = list(short(problems, template, model, longest, dropped))
    if not problems:
        raise ValueError(
            f"of the {report.read} rows of {report.origin} none is left: {_counts(report.dropped)}"
        )
    splits = split(problems, options.validation)
    report.splits = {name: len(part) for name, part in splits.items()}
    report.settings = {
        "template": template,
        "validation": options.validation,
        "ngram": options.gram,
        "overlap": options.overlap,
        "max_prompt_tokens": options.max_prompt_tokens,
        "tokenizer": options.tokenizer,
    }
    publish(options.out, splits, source, report, dropped)
    return report


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {REASONS[name]}" for name, count in dropped.items() if count)
