"""What recorded rollouts hold, in one pass over them."""

from __future__ import annotations

import itertools
import math
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from tqdm import tqdm

from vespo_openrlhf.recorded.checks import REASONS, Limits, problems
from vespo_openrlhf.recorded.reading import find_shards, readable
from vespo_openrlhf.recorded.schema import (
    REWARD_MODEL,
    Origin,
    RecordedSample,
    from_table,
    read_origin,
)

_UNBOUNDED = sys.maxsize
#: Whether (log-probs, rewards) are needed: what a run asks of samples that have them, or have not.
_NEEDS = list(itertools.product((False, True), repeat=2))


@dataclass
class Mean:
    """Of numbers as they come, and the largest."""

    count: int = 0
    total: float = 0.0
    largest: float = -math.inf

    def add(self, value: float) -> None:
        """One more."""
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)

    @property
    def mean(self) -> float:
        """NaN of none."""
        return self.total / self.count if self.count else math.nan


@dataclass
class Summary:
    """Of all samples.

    Attributes:
        origins: with the number of shards of each.
        groups: by (folder, ticket); of each sample its number, and whether it can be trained on
            with each of `_NEEDS`, as the last four bits.
        rewards: those that are finite numbers.
        unscored: samples without one.
        to_score: of these, those for a reward model.
        prompt_tokens, response_tokens: what comes before the first sampled token, and the rest.
        versions: samples whose tokens' versions are known.
        log_probs: samples whose log-probs are known.
        problems: samples that cannot be trained on, by `REASONS`, for each of `_NEEDS`.
    """

    origins: Counter[Origin] = field(default_factory=Counter)
    samples: int = 0
    groups: dict[tuple[Path, int], array[int]] = field(default_factory=dict)
    rewards: Mean = field(default_factory=Mean)
    unscored: int = 0
    to_score: int = 0
    prompt_tokens: Mean = field(default_factory=Mean)
    response_tokens: Mean = field(default_factory=Mean)
    versions: int = 0
    log_probs: int = 0
    problems: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in _NEEDS])

    @property
    def wrong(self) -> Counter[str]:
        """The problems, where log-probs and rewards are needed if any sample has them."""
        return self.problems[self._needed]

    @property
    def _needed(self) -> int:
        return _NEEDS.index((self.log_probs > 0, self.samples > self.unscored))

    def split(self, size: int) -> tuple[int, int]:
        """Groups of `size`, as `Recording` makes them, and the samples that could be trained on but
        for the rest of their groups."""
        bit = 1 << self._needed
        groups = left_out = 0
        for samples in self.groups.values():
            usable = [bool(code & bit) for code in sorted(samples)]
            parts = -(-len(usable) // size)
            for part in numpy.array_split(usable, parts):
                if 2 * part.sum() < size:
                    left_out += int(part.sum())
                else:
                    groups += 1
        return groups, left_out


def summarise(path: Path, vocabulary: int = _UNBOUNDED, max_length: int = _UNBOUNDED) -> Summary:
    """Read all samples once.

    Args:
        path: a run folder, a folder of shards, or a shard.
        vocabulary, max_length: see `Limits`.

    Raises:
        ValueError: there is no shard, or one that cannot be read.
    """
    limits = Limits(vocabulary, max_length)
    found = Summary()
    for shard in tqdm(find_shards(path), "Reading", unit=" shards"):
        with readable(shard) as file:
            found.origins[read_origin(file.schema_arrow, str(shard))] += 1
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                said = [
                    problems(rows, limits._replace(needs_log_probs=probs, needs_reward=reward))
                    for probs, reward in _NEEDS
                ]
                for counter, reasons in zip(found.problems, said, strict=True):
                    counter.update(filter(None, reasons))
                for sample, *reasons in zip(from_table(rows), *said, strict=True):
                    _add(found, shard.parent, sample, [not reason for reason in reasons])
    return found


def _add(found: Summary, folder: Path, sample: RecordedSample, usable: Sequence[bool]) -> None:
    """One more sample; `usable`: with each of `_NEEDS`."""
    found.samples += 1
    if sample.reward is None:
        found.unscored += 1
        found.to_score += sample.failure == REWARD_MODEL
    elif math.isfinite(sample.reward):
        found.rewards.add(sample.reward)
    found.versions += bool(sample.token_versions)
    found.log_probs += sample.log_probs is not None
    if sample.tokens is not None and sample.action_mask is not None and len(sample.tokens):
        sampled = sample.action_mask.nonzero()[0]
        start = int(sampled[0]) if len(sampled) else len(sample.tokens)
        found.prompt_tokens.add(start)
        found.response_tokens.add(len(sample.tokens) - start)
    code = sample.sample * 16 + sum(flag << bit for bit, flag in enumerate(usable))
    found.groups.setdefault((folder, sample.ticket), array("q")).append(code)


def table(found: Summary, size: int | None, tokenizer: str = "") -> str:
    """What was found, in lines.

    Args:
        size: samples of a group in training; None: not asked.
        tokenizer: digest of the model's; "": not asked.
    """
    lines = [*_origin_lines(found, tokenizer), *_group_lines(found, size)]
    count = found.samples
    lines += [
        ("rewards", f"mean {found.rewards.mean:.4g}, without one {_share(found.unscored, count)}"),
        ("prompt tokens", _tokens(found.prompt_tokens)),
        ("response tokens", _tokens(found.response_tokens)),
        ("versions known", _share(found.versions, count)),
        ("log-probs known", _share(found.log_probs, count)),
    ]
    if found.to_score:
        lines.append(("for a reward model", _share(found.to_score, count)))
    if not found.log_probs:
        lines.append(("", "none: train with --offline.behaviour initial or uniform"))
    text = [f"{name:<20}{value}" for name, value in lines]
    bad = found.wrong.total()
    text.append(f"\n{bad:,} of {count:,} samples cannot be trained on{':' if bad else ''}")
    text += [
        f"{found.wrong[name]:>9,} {name}: {meaning}"
        for name, meaning in REASONS.items()
        if found.wrong[name]
    ]
    return "\n".join(text)


def _origin_lines(found: Summary, tokenizer: str) -> list[tuple[str, str]]:
    lines = [("shards", f"{found.origins.total():,}"), ("samples", f"{found.samples:,}")]
    for origin, shards in found.origins.items():
        of = f" ({shards:,} shards)" if len(found.origins) > 1 else ""
        named = f" of {origin.model}" if origin.model else ""
        lines.append(("from", f"{origin.source}{named}, temperature {origin.temperature:g}{of}"))
        if tokenizer and origin.tokenizer and origin.tokenizer != tokenizer:
            lines.append(("", "MADE WITH ANOTHER TOKENIZER than that of --model"))
    return lines


def _group_lines(found: Summary, size: int | None) -> list[tuple[str, str]]:
    sizes = Counter(map(len, found.groups.values()))
    shown = ", ".join(f"{sizes[size]:,} of {size}" for size in sorted(sizes, reverse=True)[:6])
    more = f", and {len(sizes) - 6} smaller sizes" if len(sizes) > 6 else ""
    lines = [("groups", f"{len(found.groups):,}: {shown}{more}")]
    if size is not None:
        groups, left_out = found.split(size)
        lines.append(
            (f"in groups of {size}", f"{groups:,}, {left_out:,} samples of others left out")
        )
    return lines


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / max(whole, 1):.1%})"


def _tokens(of: Mean) -> str:
    return f"mean {of.mean:,.1f}, max {of.largest:,.0f}" if of.count else "none"
