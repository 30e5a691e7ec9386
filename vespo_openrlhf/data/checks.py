"""Checks of a run's reward and prompts, made before Ray starts.

Each raises ValueError with the flag to change. Heavy libraries are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf import user_code
from vespo_openrlhf.reward.api import needs_verifier, probe
from vespo_openrlhf.rows import KINDS, read_files

#: A reward file may define `label_problems(labels)`: per label, why it can never be rewarded, or
#: None where it can. Then a run on labels that cannot be rewarded does not start.
LabelProblems = Callable[[Sequence[Any]], Sequence[str | None]]

_SHOWN = 3


def load_reward(path: str) -> dict[str, Any]:
    """The names a reward file defines.

    Raises:
        ValueError: there is no such file, it does not import, it defines no `reward_func`, or it
            asks our verifier and that cannot be reached.
    """
    names = vars(user_code.load_file(path, "--reward.remote_url"))
    if not callable(names.get("reward_func")):
        raise ValueError(
            f"--reward.remote_url {path} defines no reward_func(queries, prompts, labels)"
        )
    if needs_verifier(names):
        try:
            probe()
        except ConnectionError as error:
            raise ValueError(f"--reward.remote_url {path}: {error}") from error
    return names


def check_prompts(
    dataset: str | None,
    *,
    input_key: str,
    label_key: str | None,
    split: str,
    label_problems: LabelProblems | None = None,
    flag: str = "--data.prompt_dataset",
) -> None:
    """Every part of a dataset that is a local file must be usable.

    Hub datasets and folders are left to OpenRLHF's loader: looking into them would download them.

    Args:
        dataset: comma-separated paths, as OpenRLHF takes them.
        input_key: column of the prompt.
        label_key: column of the gold answer, or None.
        split: the split that OpenRLHF will take.
        label_problems: what the reward file has to say of labels, see `LabelProblems`.
        flag: that named the dataset, for the errors.

    Raises:
        ValueError: missing file, wrong columns, no rows, or labels that cannot be rewarded
            (counted, the first three shown).
    """
    if not dataset:
        raise ValueError(f"{flag} is missing: a JSONL or Parquet file, or a hub id")
    for part, rows in local_rows(dataset, split, flag):
        if rows is None:
            continue
        _check_columns(part, rows.column_names, input_key, label_key)
        if len(rows) == 0:
            raise ValueError(f"{flag} {part} holds no rows")
        if label_key is not None and label_problems is not None:
            _check_labels(part, rows[label_key], label_key, label_problems)


def local_rows(
    dataset: str, split: str, flag: str = "--data.prompt_dataset"
) -> Iterator[tuple[str, Any]]:
    """Each part of a dataset with its rows; None for one that is no local file.

    Raises:
        ValueError: there is no such file, it cannot be read, or it has no such split.
    """
    for part in (p.strip() for p in dataset.split(",")):
        if Path(part).suffix.lower() not in KINDS:
            yield part, None
            continue
        rows = read_files([Path(part)], flag, cached=True)
        if split != "train":
            wrong = f"{flag.replace('dataset', 'split')} {split}"
            raise ValueError(f"{wrong}: a single file has only the split train")
        yield part, rows


def _check_columns(path: str, columns: list[str], input_key: str, label_key: str | None) -> None:
    for flag, key in (("--data.input_key", input_key), ("--data.label_key", label_key)):
        if key is not None and key not in columns:
            raise ValueError(
                f"{flag} {key}: {path} has no such column; it has {', '.join(columns)}"
            )


def _check_labels(
    path: str, labels: Sequence[Any], key: str, label_problems: LabelProblems
) -> None:
    problems = [
        f"row {row}: {label!r} ({problem})"
        for row, (label, problem) in enumerate(zip(labels, label_problems(labels), strict=True))
        if problem is not None
    ]
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        raise ValueError(
            f"{len(problems)} of the labels in {path} (--data.label_key {key}) can never be "
            f"rewarded: {shown}. Remove or mend these rows"
        )
