"""What an importer reads, as shards of recorded rollouts."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vespo_openrlhf.recorded.importing.encoding import Encoded, Encoder, key_of
from vespo_openrlhf.recorded.importing.imported import (
    REASONS,
    Imported,
    Importer,
    Unread,
    Unreadable,
)
from vespo_openrlhf.recorded.reading import FOLDER
from vespo_openrlhf.recorded.schema import REWARD_MODEL, Origin, RecordedSample, tokenizer_digest
from vespo_openrlhf.recorded.writing import ShardWriter

#: Before the name of what a source logged: training has metrics of its own, such as kl and reward.
_LOGGED = "source/"


@dataclass(frozen=True)
class Options:
    """How rows become samples.

    Attributes:
        out: folder of the shards, which must hold none.
        source: name of the importer.
        model: whose tokenizer makes the tokens, as it was named.
        temperature: that the log-probs are of.
        apply_chat_template, max_response_tokens: see `Encoder`.
        keep_unscored: rows without a reward, for a reward model.
    """

    out: Path
    source: str
    model: str
    temperature: float = 1.0
    apply_chat_template: bool = False
    max_response_tokens: int | None = None
    keep_unscored: bool = False


@dataclass
class Report:
    """What became of the rows.

    Attributes:
        read: rows in all.
        written: samples.
        prompts: groups.
        left_out: rows by reason.
        meanings: of the reasons.
        places: of the first row of each reason.
        noted: samples by `encoding.NOTES`.
    """

    read: int = 0
    written: int = 0
    prompts: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    meanings: Mapping[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    noted: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str, place: str) -> None:
        """One more row."""
        assert reason in self.meanings, reason
        self.left_out[reason] += 1
        self.places.setdefault(reason, place)

    def account(self) -> str:
        """The rows that are left out, a line a reason."""
        return "\n".join(
            f"{count:>9,} {reason}: {self.meanings[reason]} (first: {self.places[reason]})"
            for reason, count in self.left_out.most_common()
        )


@dataclass(slots=True)
class _Group:
    """Of one prompt: `digest` of what it says, rows in all, and those written."""

    ticket: int
    digest: bytes
    rows: int = 0
    written: int = 0


def convert(importer: Importer, tokenizer: Any, options: Options) -> Report:
    """Write the rows of an importer as shards, the responses to a prompt as one group.

    The source is read twice: once to see how many responses each prompt has, of which some 300
    bytes a prompt are held, and once to write them. Where it fails no shard is left.

    Args:
        importer: what reads them.
        tokenizer: of transformers.
        options: how.

    Raises:
        ValueError: the folder holds shards already, nothing could be read, or see `Importer.rows`
            and `Encoder`.
    """
    _check_free(options.out)
    encoder = Encoder(
        tokenizer,
        apply_chat_template=options.apply_chat_template,
        stripped=importer.stripped,
        max_response_tokens=options.max_response_tokens,
    )
    report = Report(meanings={**REASONS, **importer.reasons})
    groups: dict[bytes, _Group] = {}
    for row in _checked(importer, options, "Counting"):
        report.read += 1
        if isinstance(row, Unread):
            report.leave_out(*row)
            continue
        key, digest = _digests(row)
        group = groups.setdefault(key, _Group(len(groups), digest))
        group.rows += group.digest == digest
    _check_some(sum(group.rows for group in groups.values()), report)
    options.out.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".import-", dir=options.out))
    try:
        origin = Origin(
            options.source, options.model, tokenizer_digest(tokenizer), options.temperature
        )
        writer = ShardWriter(draft, origin)
        for row in _checked(importer, options, "Writing", report.read):
            if not isinstance(row, Unread):
                _write(row, groups, encoder, writer, report)
        writer.flush()
        _check_some(report.written, report)
        for shard in sorted(draft.iterdir()):
            shard.replace(options.out / shard.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    report.prompts = sum(group.written > 0 for group in groups.values())
    report.noted = encoder.noted
    return report


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is no folder")
    if any(out.glob("*.parquet")) or (out / FOLDER).exists():
        raise ValueError(f"--out {out} holds recorded rollouts already: name another folder")


def _check_some(count: int, report: Report) -> None:
    if not count:
        raise ValueError(f"of {report.read} rows none can be used:\n{report.account()}")


def _checked(
    importer: Importer, options: Options, what: str, total: int | None = None
) -> Iterator[Imported | Unread]:
    """The rows, with those that cannot be used as unread ones."""
    for row in tqdm(importer.rows(), what, total, unit=" rows"):
        if isinstance(row, Imported) and (reason := _problem(row, options.keep_unscored)):
            yield Unread(reason, row.place)
        else:
            yield row


def _problem(row: Imported, keep_unscored: bool) -> str:
    """Which of `REASONS` speaks against a row; "" if none does."""
    if not row.prompt:
        return "no_prompt"
    if not row.response:
        return "no_response"
    if row.reward is None:
        if not keep_unscored:
            return "no_reward"
    elif not math.isfinite(row.reward):
        return "not_finite"
    try:  # half a surrogate pair is among JSON's escapes, but is no character
        (row.prompt_id + row.label + key_of(row.prompt) + key_of(row.response)).encode()
    except UnicodeEncodeError:
        return "not_text"
    return ""


def _digests(row: Imported) -> tuple[bytes, bytes]:
    """Of what names the group of a row, and of its prompt."""
    prompt = hashlib.blake2b(key_of(row.prompt).encode(), digest_size=16).digest()
    if not row.prompt_id:
        return b"prompt" + prompt, prompt
    return hashlib.blake2b(row.prompt_id.encode(), digest_size=16).digest(), prompt


def _write(
    row: Imported,
    groups: Mapping[bytes, _Group],
    encoder: Encoder,
    writer: ShardWriter,
    report: Report,
) -> None:
    key, digest = _digests(row)
    group = groups.get(key)
    if group is None or (group.written == group.rows and group.digest == digest):
        raise ValueError(f"{row.place}: the source has changed while it was read; import it again")
    try:
        if group.digest != digest:
            raise Unreadable("prompt_differs")
        encoded = encoder.encode(row)
    except Unreadable as error:
        report.leave_out(error.reason, row.place)
        return
    writer.add(_sample(row, encoded, group))
    group.written += 1
    report.written += 1


def _sample(row: Imported, encoded: Encoded, group: _Group) -> RecordedSample:
    return RecordedSample(
        ticket=group.ticket,
        sample=group.written,
        samples=group.rows,
        prompt_id=row.prompt_id or f"{group.ticket}:{group.digest.hex()[:8]}",
        row=group.ticket,
        prompt=encoded.prompt,
        label=row.label,
        tokens=encoded.tokens,
        action_mask=encoded.action_mask,
        log_probs=encoded.log_probs,
        turns=encoded.turns,
        reward=row.reward,
        failure=REWARD_MODEL if row.reward is None else "",
        logged={f"{_LOGGED}{name}": value for name, value in row.parts.items()},
        finish_reason=encoded.finish_reason,
    )
