"""What TRL's GRPOTrainer leaves of its completions with log_completions.

Read are the Parquet files OUTPUT_DIR/completions/completions_STEP.parquet of TRL 0.28.0 to 1.16.0,
in the order of their steps. A row has step, prompt and completion, a column for each reward
function, whatever reward functions logged by `log_extra`, and advantage. They are written by
`GRPOTrainer.log` of trl/trainer/grpo_trainer.py (the columns are named in
trl/templates/completions_dataset_card.md). Prompt and completion are text that was decoded without
special tokens (1.10.0.dev and before), or what the data set has: text, or messages (1.16.0). The
files do not say which columns are reward functions, nor their weights: the reward is the sum of all
columns of numbers beside step and advantage, or of those of --rewards, by their weights
(GRPOConfig.reward_weights). As in TRL, a reward function that returned None (a NaN) adds nothing,
and a completion for which all did has no reward. A file holds the last generation batch before it
was logged, so that one which was trained several times is there several times: repeated rows are
left out. A file of a step in which TRL evaluated may hold completions of the evaluation. Not in the
files, and so not known: log-probs, the tokens themselves, and whether a completion ended or was cut
off at max_completion_length (give that as --max-response-tokens; without it all are taken as
ended). Where the special tokens of a prompt of text can be told from the model's chat template they
are put back, and a completion of text in which the template opens another turn is one of tool
calls, and is left out; so is one of messages that keep tool calls or reasoning apart from their
text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf.options import Options, option
from vespo_openrlhf.recorded.importing.imported import (
    Imported,
    Importer,
    Unread,
    Unreadable,
    check_sampled,
    find_files,
    messages_of,
    prompt_of,
    read_each,
    read_rows,
    sampled_messages,
)

_NOT_REWARDS = ("step", "prompt", "completion", "advantage")
_Row = tuple[str, Any]


class Trl(Importer):
    """See the module."""

    @dataclass(frozen=True)
    class Settings(Options):
        """Flags of --from trl."""

        rewards: str = option(
            "",
            "the columns of the reward functions and their weights, as NAME=WEIGHT,NAME=WEIGHT; a "
            "NAME alone has weight 1 (default: every column of numbers beside step and advantage, "
            "each with weight 1)",
        )

    reasons = {"logged_again": "a completion that was in an earlier file already"}  # noqa: RUF012
    stripped = True

    def __init__(self, sources: Any, settings: Any) -> None:
        super().__init__(sources, settings)
        self._weights = _weights(settings.rewards)

    def rows(self) -> Iterator[Imported | Unread]:
        patterns = ["completions/*.parquet", "*.parquet"]
        last: list[Any] = []
        files = find_files(self.sources, patterns, "TRL's completions")
        for file in sorted(files, key=_step):
            rows = list(read_rows([file]))
            self._check_columns(file, rows)
            # NaN is not equal to itself, but its text is.
            said = [repr({k: v for k, v in row.items() if k != "step"}) for _, row in rows]
            again = _overlap(last, said)
            yield from (Unread("logged_again", place) for place, _ in rows[:again])
            yield from read_each(rows[again:], self._read)
            last = said

    def _check_columns(self, file: Path, rows: list[_Row]) -> None:
        if not rows:
            return
        missing = [name for name in self._weights or () if name not in rows[0][1]]
        if missing:
            raise ValueError(
                f"--rewards {', '.join(missing)}: {file} has no such column; it has "
                f"{', '.join(name for name in rows[0][1] if name not in _NOT_REWARDS)}"
            )

    def _read(self, place: str, row: Mapping[str, Any]) -> Iterator[Imported]:
        prompt, response = prompt_of(row.get("prompt")), row.get("completion") or ""
        if not isinstance(response, (str, list)):
            raise Unreadable("not_text")
        if isinstance(response, list):
            sampled = sampled_messages(response)
            check_sampled(response, sampled)
            response = messages_of(response[: sampled[-1] + 1])
        numbers = {
            name: float(value)
            for name, value in row.items()
            if name not in _NOT_REWARDS and isinstance(value, (bool, int, float))
        }
        known = {name: value for name, value in numbers.items() if not math.isnan(value)}
        weights = self._weights or dict.fromkeys(numbers, 1.0)
        told = [weight * known[name] for name, weight in weights.items() if name in known]
        step = row.get("step")
        yield Imported(
            prompt,
            response,
            place,
            reward=sum(told) if told else None,
            parts=known | ({"step": float(step)} if isinstance(step, (int, float)) else {}),
        )


def _step(file: Path) -> tuple[str, int, str]:
    """The steps of a folder by their number, which may outgrow its five digits."""
    digits = file.stem.rpartition("_")[2]
    return str(file.parent), int(digits) if digits.isdigit() else -1, file.name


def _weights(text: str) -> dict[str, float] | None:
    """Of each column; None where none are named."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, weight = part.rpartition("=")
        try:
            found[name if equals else part] = float(weight) if equals else 1.0
        except ValueError as error:
            raise ValueError(
                f"--rewards {part}: expected NAME=WEIGHT, as in accuracy=1,format=0.5"
            ) from error
    return found or None


def _overlap(last: list[Any], rows: list[Any]) -> int:
    """How many of the first rows were the last ones of the file before."""
    for count in range(min(len(last), len(rows)), 0, -1):
        if last[-count:] == rows[:count]:
            return count
    return 0
