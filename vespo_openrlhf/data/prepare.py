"""From a dataset as published to prompts that training may be run on.

In this order: empty rows out, duplicates out, problems that a benchmark has out, golds that the
verifier cannot use out; then a template is put around each problem, prompts that are longer than
was asked for go out, and a hash of the problem decides its split.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vespo_openrlhf.data.overlap import GRAM, SHARE, Index, fingerprint, tokens
from vespo_openrlhf.data.sources import ARITHMETIC, SOURCES, Row, Source, read
from vespo_openrlhf.eval.benchmarks import EMBEDDED

MANIFEST = "manifest.json"
DROPPED = "dropped.jsonl"
CARD = "README.md"
_AUDIT_BLOCK = 500

#: Why a row was dropped, in the order of the steps.
REASONS = {
    "no_problem": "no problem in it",
    "no_gold": "no gold answer in it",
    "duplicate": "the same problem and gold again",
    "conflict": "the same problem with different golds: all of them",
    "contaminated_exact": "a benchmark's problem, word for word",
    "contaminated_overlap": "overlaps a benchmark's problem",
    "gold_unusable": "the verifier cannot read the gold",
    "gold_not_itself": "the verifier does not take the gold as right",
    "overlong": "the prompt has more tokens than asked for",
}


@dataclass(frozen=True)
class Options:
    """What is prepared and how.

    Attributes:
        source: which dataset.
        out: folder for the result.
        files: local files instead of the hub.
        benchmark_data: folder with benchmarks' files; what is not in it is looked for on the hub.
        against: files of problems that are no benchmark of `eval`, to keep out as well.
        template: put around each problem: a name of `eval.prompts`, or a text with ``{problem}``;
            empty is the dataset's own.
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
        from vespo_openrlhf.eval.prompts import find_template

        if self.template:
            find_template(self.template)
        Index((), gram=self.gram, share=self.overlap)


@dataclass
class Report:
    """What was done, as it stands in `manifest.json` and in the data card.

    Attributes:
        read: rows read, from `origin`.
        dropped: rows by reason, see `REASONS`.
        contaminated: by benchmark, the rows dropped as its problems: "exact" and "overlap".
        phrases: rows kept although they share a run of tokens with a benchmark's problem.
        checked: benchmarks looked into, with their problems, source and checksum.
        not_checked: benchmarks that were not available, and why.
        splits: rows of each split.
    """

    source: str
    origin: str = ""
    read: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    contaminated: dict[str, dict[str, int]] = field(default_factory=dict)
    phrases: int = 0
    checked: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_checked: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def decontaminated(self) -> bool:
        """Whether any benchmark was there to check against; the built-in sums, which always are,
        say something of the data that are such sums alone."""
        return self.source == ARITHMETIC or bool(set(self.checked) - {EMBEDDED})


@dataclass(frozen=True)
class _Problem:
    row: Row
    words: tuple[str, ...]


class _Dropped:
    """Counts what is dropped, and keeps it for `dropped.jsonl`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.lines: list[str] = []

    def add(self, reason: str, row: Row, **more: Any) -> None:
        self._report.dropped[reason] += 1
        line = {"reason": reason, "problem": row.problem, "gold": row.gold, **more}
        self.lines.append(json.dumps(line, ensure_ascii=False))


def prepare(options: Options) -> Report:
    """Prepare a dataset and write it.

    Into `options.out` go `train.parquet` and `validation.parquet` (columns prompt, label, source;
    a split without rows is not written), `README.md` (the data card), `manifest.json` and
    `dropped.jsonl` (every row that was left out but for the plain duplicates, and why).

    Raises:
        ValueError: the dataset cannot be read, nothing of it is left, or `options.out` holds
            another dataset.
    """
    _check_folder(options)
    source = SOURCES[options.source]
    report = Report(source.name)
    dropped = _Dropped(report)
    rows, total, report.origin = read(source, options.files)
    problems = _unique(_progress(rows, "reading", total), report, dropped)
    known = _benchmark_problems(options, report)
    index = Index(known, gram=options.gram, share=options.overlap)
    problems = list(_clean(_progress(problems, "decontaminating"), index, report, dropped))
    problems = list(_sound(problems, dropped))
    if options.max_prompt_tokens is not None:
        template = options.template or source.template
        problems = list(_short(problems, template, options, dropped))
    if not problems:
        raise ValueError(
            f"of the {report.read} rows of {report.origin} none is left: {_counts(report.dropped)}"
        )
    splits = _split(problems, options.validation)
    report.splits = {name: len(part) for name, part in splits.items()}
    report.settings = {
        "template": options.template or source.template,
        "validation": options.validation,
        "ngram": options.gram,
        "overlap": options.overlap,
        "max_prompt_tokens": options.max_prompt_tokens,
        "tokenizer": options.tokenizer,
    }
    _publish(options.out, splits, source, report, dropped)
    return report


def _publish(
    out: Path,
    splits: Mapping[str, list[_Problem]],
    source: Source,
    report: Report,
    dropped: _Dropped,
) -> None:
    """Everything is written beside what stood there, and then takes its place: the manifest goes
    first and comes last, so a folder that has one is complete. One process at a time does so."""
    from vespo_openrlhf.data.card import card

    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(dir=out, prefix=".new-") as new_folder:
            new = Path(new_folder)
            for name, part in splits.items():
                _write(new / f"{name}.parquet", part, source, report.settings["template"])
            text = "".join(f"{line}\n" for line in dropped.lines)
            (new / DROPPED).write_text(text, encoding="utf-8")
            (new / CARD).write_text(card(source, report), encoding="utf-8")
            (new / MANIFEST).write_text(json.dumps(asdict(report), indent=2) + "\n")
            for name in (MANIFEST, "train.parquet", "validation.parquet"):
                (out / name).unlink(missing_ok=True)
            for path in sorted(new.iterdir(), key=lambda path: path.name == MANIFEST):
                path.replace(out / path.name)
    finally:
        os.close(folder)


def _check_folder(options: Options) -> None:
    manifest = options.out / MANIFEST
    if manifest.is_file():
        try:
            there = json.loads(manifest.read_text()).get("source")
        except (ValueError, AttributeError):
            there = None
        if there != options.source:
            raise ValueError(f"--out {options.out} holds another dataset ({there}): name another")
    elif options.out.is_dir() and any(options.out.glob("*.parquet")):
        raise ValueError(
            f"--out {options.out} holds Parquet files and no {MANIFEST}: name another folder, or "
            "remove what an interrupted run has left there"
        )


def _progress(
    rows: Iterable[Any], what: str, total: int | None = None, unit: str = " rows"
) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(rows, desc=what, total=total, unit=unit)


def _unique(rows: Iterable[Row], report: Report, dropped: _Dropped) -> list[_Problem]:
    """The first of equal problems; none where equal problems have different golds."""
    as_written: Counter[Row] = Counter(rows)  # DAPO-Math-17k has each row a hundred times
    report.read = as_written.total()
    first: dict[tuple[str, ...], _Problem] = {}
    others: dict[tuple[str, ...], list[Row]] = {}
    for row, times in as_written.items():
        if not row.problem or not row.gold:
            reason = "no_gold" if row.problem else "no_problem"
            for _ in range(times):
                dropped.add(reason, row)
            continue
        report.dropped["duplicate"] += times - 1
        words = tokens(row.problem)
        if words in first:
            others.setdefault(words, []).append(row)
        else:
            first[words] = _Problem(row, words)
    for words, rows_ in others.items():
        kept = first[words].row
        if all(_same_gold(row.gold, kept.gold) for row in rows_):
            report.dropped["duplicate"] += len(rows_)
            continue
        del first[words]
        for row in (kept, *rows_):
            dropped.add("conflict", row)
    return list(first.values())


def _same_gold(one: str, other: str) -> bool:
    """Whether the verifier, which will reward by either, takes them as equal."""
    from vespo_openrlhf.reward import verify
    from vespo_openrlhf.reward.labels import parse_label

    if one == other:
        return True
    try:
        answer, golds = parse_label(one).answer, parse_label(other).golds
    except ValueError:  # no label: equal to nothing
        return False
    return verify(f"\\boxed{{{answer}}}", golds).correct


def _benchmark_problems(options: Options, report: Report) -> Iterator[tuple[str, str, str]]:
    """Benchmark, id and text of every benchmark's problems that can be had, and of the user's own
    files, which have to be.

    Raises:
        ValueError: a file of the user's cannot be read, or goes by the name of another.
    """
    from vespo_openrlhf.eval.benchmarks import BENCHMARKS, parse
    from vespo_openrlhf.eval.data import load

    folder, places = options.benchmark_data, dict(BENCHMARKS)
    for file in options.against:
        (own,) = parse(str(file))
        if own.benchmark.name in places:
            raise ValueError(
                f"--against {file}: there is a benchmark {own.benchmark.name} already; call the "
                "file something else, or put it into the folder of --benchmark-data if it is that "
                "benchmark's"
            )
        places[own.benchmark.name] = own.benchmark
    hub_is_there = True
    for name, benchmark in _progress(places.items(), "benchmarks", unit=""):
        reasons = []
        for place in [None] if folder is None or benchmark.path else [folder, None]:
            if place is None and benchmark.hub and not hub_is_there:
                reasons.append("the hub cannot be reached")
                continue
            try:
                loaded = load(benchmark, place)
            except ValueError as error:
                if benchmark.path:
                    raise
                # Each further dataset would be tried for half a minute.
                hub_is_there &= not isinstance(error.__cause__, ConnectionError)
                reason = str(error).removeprefix(f"benchmark {name}: ")
                reasons.append(reason.replace("--data-dir", "--benchmark-data"))
                continue
            report.checked[name] = {
                "problems": len(loaded.problems),
                "source": loaded.source,
                "checksum": loaded.checksum,
            }
            for problem in loaded.problems:
                yield name, problem.id, problem.text
            break
        else:
            report.not_checked[name] = "; ".join(reasons)


def _clean(
    problems: Iterable[_Problem], index: Index, report: Report, dropped: _Dropped
) -> Iterator[_Problem]:
    for problem in problems:
        match = index.find(problem.words)
        if match is None or match.kind == "phrase":
            report.phrases += match is not None
            yield problem
            continue
        counts = report.contaminated.setdefault(match.benchmark, {"exact": 0, "overlap": 0})
        counts[match.kind] += 1
        dropped.add(
            f"contaminated_{match.kind}",
            problem.row,
            benchmark=match.benchmark,
            id=match.id,
            share=round(match.share, 3),
        )


def _sound(problems: Sequence[_Problem], dropped: _Dropped) -> Iterator[_Problem]:
    """Those whose gold the verifier can read and takes as right."""
    from tqdm import tqdm

    from vespo_openrlhf.reward.tools.audit import audit

    with tqdm(total=len(problems), desc="auditing golds", unit=" rows") as bar:
        for start in range(0, len(problems), _AUDIT_BLOCK):
            block = problems[start : start + _AUDIT_BLOCK]
            found = audit([{"label": problem.row.gold} for problem in block], "label")
            unusable = {**dict.fromkeys(found["empty"], "empty"), **found["unusable"]}
            not_itself = set(found["not_itself"])
            for number, problem in enumerate(block):
                if number in unusable:
                    dropped.add("gold_unusable", problem.row, why=unusable[number])
                elif number in not_itself:
                    dropped.add("gold_not_itself", problem.row)
                else:
                    yield problem
            bar.update(len(block))


def _short(
    problems: Sequence[_Problem], template: str, options: Options, dropped: _Dropped
) -> Iterator[_Problem]:
    """Those whose prompt has as many tokens as asked for at most, as training will measure it."""
    from vespo_openrlhf.data import lengths
    from vespo_openrlhf.eval.models import load_tokenizer
    from vespo_openrlhf.eval.prompts import Renderer, find_template

    try:
        tokenizer = load_tokenizer(options.tokenizer, None)
    except ValueError as error:
        raise ValueError(str(error).replace("--model", "--tokenizer", 1)) from error
    around = find_template(template)
    renderer = Renderer(tokenizer, raw=not tokenizer.chat_template)
    texts = (renderer.render(around, problem.row.problem).text for problem in problems)

    def encode(block: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(block, add_special_tokens=False)["input_ids"]
        return ids

    limit = options.max_prompt_tokens
    assert limit is not None
    found = lengths.overlong(texts, len(problems), encode, limit)
    for number, problem in enumerate(problems):
        if number in found:
            dropped.add("overlong", problem.row, tokens=found[number])
        else:
            yield problem


def _split(problems: Iterable[_Problem], validation: float) -> dict[str, list[_Problem]]:
    """A problem's own hash decides: it stays in its split whatever else the data holds."""
    splits: dict[str, list[_Problem]] = {"train": [], "validation": []}
    for problem in problems:
        place = int(fingerprint(problem.words)[:13], 16) / 16**13  # within [0, 1)
        splits["validation" if place < validation else "train"].append(problem)
    return {name: part for name, part in splits.items() if part}


def _write(path: Path, problems: Sequence[_Problem], source: Source, template: str) -> None:
    from datasets import Dataset

    from vespo_openrlhf.eval.prompts import PLACE, find_template

    text = find_template(template).text
    Dataset.from_dict(
        {
            "prompt": [text.replace(PLACE, problem.row.problem) for problem in problems],
            "label": [_label(problem.row.gold, source) for problem in problems],
            "source": [source.name] * len(problems),
        }
    ).to_parquet(str(path))


def _label(gold: str, source: Source) -> str:
    from vespo_openrlhf.reward.labels import parse_label

    label = parse_label(gold)
    fields: dict[str, Any] = {"answer": label.answer, "source": label.source or source.name}
    if label.alternatives:
        fields["alternatives"] = list(label.alternatives)
    if label.type != "math":
        fields["type"] = label.type
    return json.dumps(fields, ensure_ascii=False)


def _counts(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {REASONS[name]}" for name, count in dropped.items() if count)
