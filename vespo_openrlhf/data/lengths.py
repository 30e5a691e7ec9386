"""Prompts that leave too little room for a response. OpenRLHF cuts off their beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

#: Texts to the token ids of each, nothing added to them.
Encode = Callable[[list[str]], Sequence[Sequence[int]]]

_BLOCK = 1000
_SHOWN = 3


def room(flags: Mapping[str, Any]) -> int:
    """The most tokens a prompt may have beside the longest response, or beside one token where the
    response takes what the prompt leaves."""
    longest: int = flags["data.max_len"]
    return longest - (flags["rollout.max_new_tokens"] or 1)


def may_exceed(text: str, limit: int) -> bool:
    """Whether a text must be encoded to know that it has no more than `limit` tokens.

    An ASCII character is one token at most, any other as many as the bytes that a tokenizer's
    normalisation may make of it (36); and some tokenizers put a space in front.
    """
    further = len(text.encode()) - len(text)  # at least the characters that are not ASCII
    return len(text) + 35 * further + 1 > limit


def overlong(texts: Iterable[str], total: int, encode: Encode, limit: int) -> dict[int, int]:
    """Row and tokens of every text of more than `limit` tokens.

    Most texts are short enough by their characters, and the others take a millisecond or less
    each; a progress bar comes up where that adds up to seconds.

    Args:
        texts: one a row.
        total: how many.
        encode: the tokenizer.
        limit: in tokens.
    """
    from tqdm import tqdm

    found: dict[int, int] = {}
    block: dict[int, str] = {}

    def measure() -> None:
        for row, ids in zip(block, encode(list(block.values())), strict=True):
            if len(ids) > limit:
                found[row] = len(ids)
        block.clear()

    for row, text in enumerate(tqdm(texts, "measuring prompts", total, delay=2)):
        if may_exceed(text, limit):
            block[row] = text
        if len(block) == _BLOCK:
            measure()
    if block:
        measure()
    return found


def complaint(found: Mapping[int, int], total: int, flags: Mapping[str, Any], dataset: str) -> str:
    """What is wrong with prompts that are too long, and what to do.

    Args:
        found: row and tokens of each.
        total: prompts in all.
        flags: every flag.
        dataset: the flag that names their data.
    """
    response = flags["rollout.max_new_tokens"]
    less = f" less --rollout.max_new_tokens {response}" if response else ""
    shown = ", ".join(f"row {row}: {found[row]}" for row in sorted(found)[:_SHOWN])
    skip = ", or leave them out with --data.overlong_prompts skip" * (dataset != "--eval.dataset")
    return (
        f"{len(found)} of {total} prompts of {dataset} are longer than {room(flags)} tokens, "
        f"--data.max_len {flags['data.max_len']}{less} ({shown}), and would lose their beginning: "
        f"raise --data.max_len to at least {(response or 1) + max(found.values())}, remove "
        f"them{skip}"
    )


def no_template(model: str) -> str:
    """What to say where a chat template is asked for and the tokenizer has none."""
    return (
        f"--data.apply_chat_template, but the tokenizer of {model} has no chat template: leave the "
        "flag out and give a --data.input_template, or take a model that has one"
    )
