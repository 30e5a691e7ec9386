"""What verl dumps with trainer.rollout_data_dir or trainer.validation_data_dir.

Read are the STEP.jsonl files of verl 0.4.0 to 0.10.0.dev, in the order of their steps. A line has
input and output (text, decoded without special tokens), score (the sum of the token-level scores),
step, gts (the ground truth; from 0.6.0 on), uid (of the v1 trainers: PROMPT_SESSION_OUTPUT, PROMPT
anew in each step), and a column for each thing that the reward function told beside its score. They
are written by `_write_generations` and filled by `_log_rollout_data` and `_validate` of
verl/trainer/ppo/ray_trainer.py and verl/trainer/ppo/v1/trainer_base.py (before 0.8.0 by
`_dump_generations`). The reward is score, the label gts; step and what else is a number become
parts of the reward. Not in the files, and so not known: log-probs, the tokens themselves, and
whether a response ended or was cut off at data.max_response_length (give that as
--max-response-tokens; without it all are taken as ended). Where the special tokens of a prompt can
be told from the model's chat template they are put back. A response of several turns (an agent
loop) has what its tools answered in it, without a mark: it is left out where the template's opening
of another turn is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf.recorded.importing.imported import (
    Imported,
    Importer,
    Unread,
    Unreadable,
    find_files,
    number_of,
    numbers_of,
    read_each,
    read_rows,
    text_of,
)

_NOT_PARTS = ("input", "output", "gts", "score", "uid", "request_id")


class Verl(Importer):
    """See the module."""

    stripped = True

    def rows(self) -> Iterator[Imported | Unread]:
        files = find_files(self.sources, ["*.jsonl"], "verl's STEP.jsonl files")
        yield from read_each(read_rows(sorted(files, key=_step)), _read)


def _step(file: Path) -> tuple[str, int, str]:
    """The steps of a folder by their number: 10.jsonl comes after 9.jsonl."""
    return str(file.parent), int(file.stem) if file.stem.isdigit() else -1, file.name


def _read(place: str, row: Mapping[str, Any]) -> Iterator[Imported]:
    prompt, response = row.get("input") or "", row.get("output") or ""
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise Unreadable("not_text")
    uid = row.get("uid")
    yield Imported(
        prompt,
        response,
        place,
        reward=number_of(row.get("score")),
        parts=numbers_of(row, (name for name in row if name not in _NOT_PARTS)),
        prompt_id=_prompt_of(uid) if isinstance(uid, str) else "",
        label=text_of(row.get("gts")),
    )


def _prompt_of(uid: str) -> str:
    """Without the numbers of session and output, where it has them."""
    parts = uid.rsplit("_", 2)
    return parts[0] if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit() else uid
