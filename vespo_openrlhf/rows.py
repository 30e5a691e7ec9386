"""Rows of a dataset, as `datasets.Dataset`: from local files, or from the Hugging Face hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Suffix of a file -> what `datasets` calls its format. OpenRLHF reads the same ones.
KINDS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


def read_files(files: Sequence[Path], flag: str, *, cached: bool = False) -> Any:
    """The rows of one file or more, all of one kind.

    Args:
        files: in the order of their rows.
        flag: that named them, for the errors.
        cached: through the cache of `datasets`, from which OpenRLHF then reads the same files.
            Otherwise the rows are held in memory and nothing is left behind.

    Raises:
        ValueError: a file that is missing, empty, or of no known kind, files of several kinds, or
            one that cannot be read.
    """
    for file in files:
        if file.suffix.lower() not in KINDS:
            raise ValueError(f"{flag} {file}: expected one of {', '.join(KINDS)}")
        if not file.is_file():
            raise ValueError(f"{flag} {file}: there is no such file")
        if file.stat().st_size == 0:
            raise ValueError(f"{flag} {file} is empty")
    kinds = {KINDS[file.suffix.lower()] for file in files}
    if len(kinds) > 1:
        raise ValueError(f"{flag}: the files must be of one kind")
    from datasets import disable_progress_bars, load_dataset

    with tempfile.TemporaryDirectory(prefix="vespo-data-") as cache:
        options: dict[str, Any] = {}
        if not cached:
            disable_progress_bars()
            options = {"cache_dir": cache, "keep_in_memory": True}
        try:
            return load_dataset(
                kinds.pop(), data_files=[str(file) for file in files], split="train", **options
            )
        except Exception as error:
            cause = error.__cause__ or error
            raise ValueError(f"{flag} {files[0]} cannot be read: {cause}") from error


def read_hub(
    name: str, config: str | None, split: str, instead: str, revision: str | None = None
) -> Any:
    """The rows of a dataset on the hub.

    Args:
        name, config, split: of the dataset.
        instead: what to do without a network, for the error.
        revision: branch, tag or commit; None is the newest.

    Raises:
        ValueError: it cannot be read (the cause is that of `datasets`), or the cache, which is
            taken where the hub cannot be reached, holds another commit than `revision`.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split=split, revision=revision)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{name} cannot be read from the hub ({reason[0] if reason else type(error).__name__})."
            f" Without a network, {instead}"
        ) from error
    found = hub_revision(rows)
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision) and found not in (None, revision):
        raise ValueError(
            f"{name} is wanted at {revision}, but only {found} is in the cache and the hub cannot "
            f"be reached. Without a network, {instead}"
        )
    return rows


def hub_revision(rows: Any) -> str | None:
    """The commit that rows of `read_hub` are of, as `datasets` names the folder of its cache.

    Returns:
        40 hex digits; None where the folder has another name.
    """
    for file in rows.cache_files:
        name = Path(file["filename"]).parent.name
        if re.fullmatch(r"[0-9a-f]{40}", name):
            return name
    return None
