"""Log-probs that a server has told, put to the tokens of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from vespo_openrlhf.recorded.importing.imported import TokenLogProb


class Aligned(NamedTuple):
    """Of one sampled turn.

    Attributes:
        tokens: of its text, without the one that ends it.
        log_probs: of each.
        end: of the token that ends it; None where the server did not tell.
    """

    tokens: list[int]
    log_probs: list[float]
    end: float | None


def align(tokenizer: Any, text: str, told: Sequence[TokenLogProb]) -> Aligned | None:
    """The tokens of a text and their log-probs; None where those told are not of its tokens.

    Where the server told the numbers of its tokens, the tokens are those. Otherwise the tokenizer
    must cut the text in the same places. White space at either end of a token may belong to its
    neighbour: fast tokenizers do not all say.

    Args:
        tokenizer: a fast one of transformers.
        text: of the turn, without the token that ends it.
        told: in order, with or without the token that ends it.
    """
    given = _numbered(tokenizer, text, told)
    if given is not None or any(each.token is not None for each in told):
        return given
    if not getattr(tokenizer, "is_fast", False):
        return None
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
    if len(told) not in (len(ids), len(ids) + 1):
        return None
    body, end = told[: len(ids)], told[len(ids) :]
    pieces = [each.text.encode() if each.data is None else each.data for each in body]
    if b"".join(pieces) != text.encode():
        return None
    if end and end[0].text not in ("", tokenizer.eos_token):
        return None
    if [_trimmed(text, *span) for span in _spans(text, pieces)] != [
        _trimmed(text, *span) for span in offsets
    ]:
        return None
    return Aligned(ids, [each.log_prob for each in body], end[0].log_prob if end else None)


def _numbered(tokenizer: Any, text: str, told: Sequence[TokenLogProb]) -> Aligned | None:
    """By the numbers that were told, if these are the text's."""
    ids = [each.token for each in told if each.token is not None]
    if len(ids) != len(told):
        return None
    log_probs = [each.log_prob for each in told]
    end = log_probs.pop() if ids[-1:] == [tokenizer.eos_token_id] else None
    ids = ids[: len(log_probs)]
    if any(token >= len(tokenizer) for token in ids) or text != tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    ):
        return None
    return Aligned(ids, log_probs, end)


def _spans(text: str, pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """For each piece of a text's bytes, from the first to the last character that it has a part
    of, as the offsets of a byte-level tokenizer have it."""
    of_byte = [i for i, character in enumerate(text) for _ in character.encode()]
    found, start = [], 0
    for piece in pieces:
        stop = start + len(piece)
        at = of_byte[start] if start < len(of_byte) else len(text)
        found.append((at, of_byte[stop - 1] + 1 if stop > start else at))
        start = stop
    return found


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """Without white space at either end; (0, 0) where nothing else is left."""
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else (0, 0)
