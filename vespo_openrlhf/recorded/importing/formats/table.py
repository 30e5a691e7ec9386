"""Rows of prompt, response and reward, of whatever source.

Read are .jsonl, .json, .csv and .parquet files, folders of one kind of them, or a dataset of the
Hugging Face hub by its name (OWNER/NAME). Columns: prompt (text, or a list of chat messages),
response (text), reward (a number), and where they are there prompt_id (rows of the same id are a
group; without it rows of the same prompt are), label, and finish_reason ("stop", or "length" where
the response was cut off); each may have another name by its flag. Where finish_reason is missing or
says something else, responses are taken as ended, but those of --max-response-tokens tokens or more
as cut off. Log-probs are not known. The format is this project's own: most data sets of rollouts
are such once their columns are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf.options import Options, option
from vespo_openrlhf.recorded.importing.imported import (
    Imported,
    Importer,
    Unread,
    Unreadable,
    find_files,
    number_of,
    numbers_of,
    prompt_of,
    read_each,
    read_rows,
    text_of,
)
from vespo_openrlhf.rows import KINDS, read_hub

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Table(Importer):
    """See the module."""

    @dataclass(frozen=True)
    class Settings(Options):
        """Flags of --from table."""

        prompt_column: str = option("prompt", "text, or a list of chat messages")
        response_column: str = option("response", "text")
        reward_column: str = option("reward", "a number")
        id_column: str = option("prompt_id", "rows of the same are a group; need not be there")
        label_column: str = option("label", "what the reward is given by; need not be there")
        finish_column: str = option("finish_reason", "stop or length; need not be there")
        part_columns: str = option("", "numbers to log beside the reward, as NAME,NAME")
        config: str = option("", "of a dataset on the hub")
        split: str = option("train", "of a dataset on the hub")

    def rows(self) -> Iterator[Imported | Unread]:
        return read_each(self._rows(), self._read)

    def _rows(self) -> Iterable[tuple[str, Any]]:
        for source in self.sources:
            path = Path(source)
            if path.exists() or path.suffix.lower() in KINDS or not _HUB_NAME.fullmatch(source):
                patterns = ["*.parquet", "*.jsonl", "*.json", "*.csv"]
                yield from read_rows(find_files([source], patterns, "the tables that can be read"))
                continue
            table = read_hub(
                source,
                self.settings.config or None,
                self.settings.split,
                "name its files, which may be .parquet, .jsonl, .json or .csv",
            )
            yield from ((f"{source}:{number}", row) for number, row in enumerate(table, 1))

    def _read(self, place: str, row: Mapping[str, Any]) -> Iterator[Imported]:
        names = self.settings
        response = row.get(names.response_column)
        if response is not None and not isinstance(response, str):
            raise Unreadable("not_text")
        finish = row.get(names.finish_column)
        parts = [name.strip() for name in names.part_columns.split(",")]
        yield Imported(
            prompt_of(row.get(names.prompt_column)),
            response or "",
            place,
            reward=number_of(row.get(names.reward_column)),
            parts=numbers_of(row, filter(None, parts)),
            prompt_id=text_of(row.get(names.id_column)),
            label=text_of(row.get(names.label_column)),
            finish_reason=finish if finish in ("stop", "length") else "",
        )
