"""From OpenRLHF's query, prompt and response in one decoded text, to the response."""

from __future__ import annotations

import re

from vespo_openrlhf.reward.reading.formats import END_TOKEN, OPEN_THINKING

_END = re.compile(
    rf"(?:{END_TOKEN})\s*(?:<pad>|<\|(?:endoftext|pad|finetune_right_pad_id)\|>|\s)*\Z"
)


def split_query(query: str, prompt: str) -> str:
    """The response of a query.

    The query is the decoded prompt and response. A prompt that was too long was cut on its
    left, so that only its end stands in the query; then the longest end of the prompt that
    the query begins with is taken off. Where the prompt itself opened the thinking,
    the response starts inside it.
    """
    if query.startswith(prompt):
        response = query[len(prompt) :]
    elif prompt and 0 <= (at := query.find(prompt)) <= 64:  # after a begin-of-text token
        response = query[at + len(prompt) :]
    else:
        trimmed = query.lstrip("\ufffd")
        response = trimmed[_overlap(prompt, trimmed) :]
    opened = OPEN_THINKING.search(prompt[-80:])
    if opened and (mark := opened.group().strip()) not in response[: len(mark) + 9]:
        response = mark + response
    return response


def _overlap(prompt: str, query: str) -> int:
    """Length of the longest end of the prompt that the query begins with (Knuth, Morris, Pratt)."""
    if not prompt or not query:
        return 0
    head = query[: len(prompt)]
    failure = [0] * len(head)
    length = 0
    for index in range(1, len(head)):
        while length and head[index] != head[length]:
            length = failure[length - 1]
        length += head[index] == head[length]
        failure[index] = length
    length = 0
    for char in prompt:
        while length and (length == len(head) or char != head[length]):
            length = failure[length - 1]
        length += char == head[length]
    return length


def ended(response: str) -> bool:
    """Whether the response ends with the token that ends a turn, and so was not cut off."""
    return _END.search(response[-400:]) is not None
