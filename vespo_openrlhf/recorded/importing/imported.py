"""What an importer gives, row by row, and how it reads the files that rows are in."""

from __future__ import annotations

import abc
import contextlib
import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from vespo_openrlhf.agents.agent import Message
from vespo_openrlhf.options import Options

#: Why a row is left out -> what that means. An importer may have reasons of its own.
REASONS = {
    "not_json": "a line that is no JSON object",
    "no_prompt": "no prompt, or an empty one",
    "no_response": "no response, or an empty one",
    "no_reward": "no reward (--keep-unscored keeps these, for a reward model)",
    "not_finite": "the reward is no finite number",
    "not_text": "what should be text, or chat messages of text, is something else",
    "prompt_differs": "its prompt is not that of the first row with its prompt id",
    "apart": "a sampled message has tool calls or reasoning apart from its text",
    "several_turns": "several turns of an agent in one text: which of it was sampled is not known",
    "template": "the model's chat template refuses the messages",
}


class Unreadable(ValueError):  # noqa: N818
    """A row that is left out, by one of the reasons.

    Args:
        reason: of `REASONS`, or of the importer's own.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unread(NamedTuple):
    """A row that could not be read.

    Attributes:
        reason: of `REASONS`, or of the importer's own.
        place: of the row, to look it up.
    """

    reason: str
    place: str


class TokenLogProb(NamedTuple):
    """What a server has told of one sampled token.

    Attributes:
        log_prob: nats.
        text: the token's.
        data: its bytes; None: those of the text.
        token: its number; None: not told.
    """

    log_prob: float
    text: str = ""
    data: bytes | None = None
    token: int | None = None


@dataclass(frozen=True)
class Imported:
    """One response, as its source has it.

    Attributes:
        prompt: text, or chat messages.
        response: text, tokens, or chat messages. Of messages, those of the assistant are sampled
            unless their "weight" is 0 (as in OpenAI's format for fine-tuning), the others observed.
        place: of the row, to look it up.
        reward: None where there is none.
        parts: of the reward and whatever else it logs, by name; logged as source/NAME.
        prompt_id: names the prompt; "": the prompt itself does.
        label: as the reward had it.
        finish_reason: "stop", or "length" where it was cut off; "": the source does not say.
        log_probs: for each sampled turn (text and tokens are one) those of its tokens; None where
            the source does not say, none where it says them wrongly.
    """

    prompt: str | Sequence[Message]
    response: str | Sequence[int] | Sequence[Message]
    place: str
    reward: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    prompt_id: str = ""
    label: str = ""
    finish_reason: str = ""
    log_probs: Sequence[Sequence[TokenLogProb] | None] = ()


class Importer(abc.ABC):
    """Reads what a trainer has left.

    Args:
        sources: files or folders, as they were named.
        settings: an instance of `Settings`.

    Attributes:
        Settings: the importer's own flags.
        reasons: of its own, beside `REASONS`.
        stripped: its texts are of tokens that were decoded without the special ones.
    """

    @dataclass(frozen=True)
    class Settings(Options):
        """No flags."""

    reasons: ClassVar[Mapping[str, str]] = {}
    stripped: ClassVar[bool] = False

    def __init__(self, sources: Sequence[str], settings: Any) -> None:
        self.sources = sources
        self.settings = settings

    @abc.abstractmethod
    def rows(self) -> Iterator[Imported | Unread]:
        """The rows, in the order in which they were sampled where that is known. It is called
        twice, and gives the same rows both times.

        Raises:
            ValueError: a source that is not there, or holds nothing of this kind.
        """


def read_each(
    rows: Iterable[tuple[str, Any]], read: Callable[[str, Mapping[str, Any]], Iterable[Imported]]
) -> Iterator[Imported | Unread]:
    """What `read` makes of each place and row; a row of which it raises `Unreadable` is unread."""
    for place, row in rows:
        if not isinstance(row, Mapping):
            yield Unread("not_json", place)
            continue
        try:
            found = list(read(place, row))
        except Unreadable as error:
            yield Unread(error.reason, place)
            continue
        yield from found


def find_files(sources: Sequence[str], patterns: Sequence[str], what: str) -> list[Path]:
    """The files that sources are, or that lie in them where they are folders.

    Args:
        sources: as they were named.
        patterns: of the files in a folder; the first that any file fits is taken.
        what: they are, for the message.

    Raises:
        ValueError: a source that does not exist, or a folder without such files.
    """
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise ValueError(f"{source}: there is no such file or folder")
        fitting = next(filter(None, (sorted(path.glob(pattern)) for pattern in patterns)), [])
        if not fitting:
            raise ValueError(f"{source} holds none of {what} ({', '.join(patterns)})")
        found += fitting
    return found


def read_rows(files: Iterable[Path]) -> Iterator[tuple[str, Any]]:
    """(place, row) of each row of .jsonl, .json, .csv and .parquet files, one in memory at a time,
    but for a .json file that is one array. What is no JSON object comes as None.

    Raises:
        ValueError: a file of another kind, or one that cannot be read.
    """
    for file in files:
        kind = file.suffix.lower()
        if kind not in _READERS:
            raise ValueError(f"{file}: expected one of {', '.join(_READERS)}")
        for number, row in _READERS[kind](file):
            yield f"{file}:{number}", row


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield number, row if isinstance(row, dict) else None


def _json(file: Path) -> Iterator[tuple[int, Any]]:
    with open(file, "rb") as lines:
        start = lines.read(1024).lstrip()[:1]
    if start != b"[":
        yield from _json_lines(file)
        return
    try:
        rows = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    yield from enumerate(rows, 1)


def _csv(file: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a response may be longer than 128 KiB
    with open(file, newline="", encoding="utf-8-sig") as lines:
        try:
            for number, row in enumerate(csv.DictReader(lines), 1):
                # An empty cell is no value, and cells beyond the header have no name.
                yield number, {name: text or None for name, text in row.items() if name is not None}
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error


def _parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def number_of(value: Any) -> float | None:
    """A reward: a number, or the text of one; None where there is none.

    Raises:
        Unreadable: it is something else. (A NaN is a number here.)
    """
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable("not_finite") from error


def numbers_of(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Those of the columns that hold finite numbers in this row."""
    found = {}
    for name in names:
        value = row.get(name)
        if isinstance(value, (bool, int, float)):
            with contextlib.suppress(OverflowError):  # a whole number may be too large
                found[name] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def text_of(value: Any) -> str:
    """A label or an id as text; "" where there is none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def prompt_of(value: Any) -> str | list[Message]:
    """A prompt, as text or as chat messages of text; "" where there is none.

    Raises:
        Unreadable: it is neither.
    """
    if value is None or value == []:
        return ""
    return value if isinstance(value, str) else messages_of(value)


def messages_of(value: Any) -> list[Message]:
    """Chat messages, their contents as text.

    Raises:
        Unreadable: it is no list of messages, or one of them is not of text alone.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise Unreadable("not_text")
    return [_message(each) for each in value]


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise Unreadable("not_text")
    content = value.get("content")
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):  # of parts
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(text, str) for text in texts):  # an image
            raise Unreadable("not_text")
        content = "".join(map(str, texts))
    if not isinstance(content, str):
        raise Unreadable("not_text")
    # Parquet fills in the keys that only other messages have.
    return {k: v for k, v in value.items() if v is not None} | {"content": content}


#: What a server may keep apart from a message's text, in which the policy sampled it.
_APART = ("tool_calls", "function_call", "reasoning_content", "reasoning")


def sampled_messages(messages: Sequence[Any]) -> list[int]:
    """Which of these messages were sampled: the assistant's, unless their weight is 0.

    Raises:
        Unreadable: there is none.
    """
    found = [
        i
        for i, message in enumerate(messages)
        if isinstance(message, Mapping)
        and message.get("role") == "assistant"
        and message.get("weight") != 0
    ]
    if not found:
        raise Unreadable("no_response")
    return found


def check_sampled(messages: Sequence[Any], sampled: Iterable[int]) -> None:
    """Hold the sampled messages to be text, all of what was sampled.

    Raises:
        Unreadable: one is empty, or has something apart from its text.
    """
    for i in sampled:
        if any(messages[i].get(name) for name in _APART):
            raise Unreadable("apart")
        if not messages[i].get("content"):
            raise Unreadable("no_response")
