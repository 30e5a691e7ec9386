"""OpenRLHF's prompts: measured with the model's tokenizer, named for the ledger, accounted for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vespo_openrlhf.bridge.errors import StoppedError
from vespo_openrlhf.data import checks, lengths
from vespo_openrlhf.scheduling import PromptLedger

# The share of a run's prompts that may be abandoned.
MOST_GIVEN_UP = 0.1

logger = logging.getLogger(__name__)


def check_lengths(flags: Mapping[str, Any]) -> None:
    """No prompt that lies here loses its beginning, as OpenRLHF will put it to the model.

    A multi-turn agent makes its own prompts, and is not looked into. Of prompts with images only
    the text counts.

    Raises:
        ValueError: prompts are too long, or there is no chat template to apply.
    """
    if flags["train.agent_func_path"]:
        return
    parts = {}
    if flags["data.prompt_dataset"]:
        parts["--data.prompt_dataset"] = flags["data.prompt_dataset"], flags["data.prompt_split"]
    if flags["eval.dataset"]:
        parts["--eval.dataset"] = (flags["eval.dataset"], flags["eval.split"])
    for flag, (dataset, split) in parts.items():
        if flag == "--data.prompt_dataset" and flags["data.overlong_prompts"] == "skip":
            continue  # the trainer leaves them out
        tables = [rows for _, rows in checks.local_rows(dataset, split, flag) if rows is not None]
        if not tables:
            continue
        tokenizer = _tokenizer(flags)
        total = 0
        found: dict[int, int] = {}
        for rows in tables:
            rows = rows.select(range(min(len(rows), flags["data.max_samples"])))
            texts, limit = _put(rows, flags, tokenizer), lengths.room(flags)
            measured = lengths.overlong(texts, len(rows), _encoder(tokenizer), limit)
            found |= {total + row: tokens for row, tokens in measured.items()}
            total += len(rows)
        if found:
            raise ValueError(lengths.complaint(found, total, flags, flag))


def settle_lengths(dataset: Any, tokenizer: Any, flags: Mapping[str, Any]) -> None:
    """Leave out of a `PromptDataset` the prompts that are too long, with --data.overlong_prompts
    skip.

    Raises:
        ValueError: otherwise, if there are any; of data that `check_lengths` could not look into.
    """
    if flags["train.agent_func_path"]:
        return
    total, limit = len(dataset.prompts), lengths.room(flags)
    found = lengths.overlong(dataset.prompts, total, _encoder(tokenizer), limit)
    if not found:
        return
    told = lengths.complaint(found, total, flags, "--data.prompt_dataset")
    if flags["data.overlong_prompts"] != "skip":
        raise ValueError(told)
    if len(found) == total:
        raise ValueError(f"no prompt is left: {told}")
    logger.warning(
        "%d of %d prompts are longer than %d tokens and left out (--data.overlong_prompts skip); "
        "their rows: %s",
        *(len(found), total, limit, sorted(found)),
    )
    for name in ("prompts", "labels", "images", "datasources"):
        values = getattr(dataset, name)
        setattr(dataset, name, [v for row, v in enumerate(values) if row not in found])


def _tokenizer(flags: Mapping[str, Any]) -> Any:
    from openrlhf.utils.utils import get_tokenizer

    model = flags["actor.model_name_or_path"]
    tokenizer = get_tokenizer(model, None, use_fast=not flags["data.disable_fast_tokenizer"])
    if flags["data.apply_chat_template"] and not tokenizer.chat_template:
        raise ValueError(lengths.no_template(model))
    return tokenizer


def _encoder(tokenizer: Any) -> lengths.Encode:
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor, which knows images too

    def encode(texts: list[str]) -> Sequence[Sequence[int]]:
        ids: list[list[int]] = inner(texts, add_special_tokens=False)["input_ids"]
        return ids

    return encode


def _put(rows: Any, flags: Mapping[str, Any], tokenizer: Any) -> Iterator[str]:
    """Each row as OpenRLHF will put it to the model; or the row's own text where it is short enough
    with whatever the chat template puts around it, which takes most of the time."""
    from openrlhf.datasets.prompts_dataset import preprocess_data

    key = flags["data.input_key"]
    template = tokenizer.apply_chat_template if flags["data.apply_chat_template"] else None
    around = 0
    if template is not None:
        around = len(preprocess_data({key: "x"}, None, key, None, template)[0].encode())
    for prompt in rows[key]:
        if (
            isinstance(prompt, str)
            and template
            and not lengths.may_exceed(prompt, lengths.room(flags) - around)
        ):
            yield prompt
            continue
        yield preprocess_data({key: prompt}, flags["data.input_template"], key, None, template)[0]


def prompt_ledger(dataset: Any, args: Any) -> PromptLedger:
    """A ledger over the rows of a `PromptDataset`, shuffled by `--train.seed` in every episode.

    A prompt's name is its row and a digest of what it says, so that a resume on other data is
    noticed and a name in a log can be looked up.
    """
    names = []
    for row, (prompt, label) in enumerate(zip(dataset.prompts, dataset.labels, strict=True)):
        digest = hashlib.sha256(f"{prompt}\0{label}".encode()).hexdigest()[:8]
        names.append(f"{row}:{digest}")
    return PromptLedger(names, epochs=args.train.num_episodes, shuffle_seed=args.train.seed)


def check_given_up(account: Sequence[Mapping[str, Any]]) -> None:
    """A run that lost much of its data, or trained none of it, does not end as if all was well.

    Args:
        account: see `PromptLedger.account`.

    Raises:
        StoppedError: it did.
    """
    trained = sum(epoch["trained"] for epoch in account)
    filtered, abandoned = (
        sum(len(epoch[outcome]) for epoch in account) for outcome in ("filtered", "abandoned")
    )
    if trained and abandoned <= MOST_GIVEN_UP * (trained + filtered + abandoned):
        return
    raise StoppedError(
        f"{abandoned} prompts were given up and {filtered} filtered out, {trained} trained. "
        f"More than {MOST_GIVEN_UP:.0%} given up, or nothing trained, is no run that ended "
        "well: the engines' logs hold the rewards' errors, and prompts.json the names"
    )
