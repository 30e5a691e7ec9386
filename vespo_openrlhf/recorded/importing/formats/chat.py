"""Chats in OpenAI's format, with rewards, one JSON object a line.

Read are .jsonl or .json files, or folders of them. A row has messages and reward, and where they
are there rewards (its parts by name), prompt_id, label, finish_reason, logprobs and choices.
Messages are those of OpenAI's chat completions (role, and content as text or parts of text). What
comes before the first message of the assistant is the prompt; from there on each message of the
assistant was sampled, unless its "weight" is 0 as in OpenAI's format for fine-tuning, and the
others are what the policy observed; with --turns last only the last message of the assistant was
sampled, and all before it is the prompt. What follows the last message of the assistant is left
out. The row may be a request with its response instead: of each choice of choices that has a
message, that is added to messages, with the choice's own reward where it has one. finish_reason
stands on the message, on the choice or in the row, and is of the last message: "length" was cut
off, "stop" ended, and without it see --max-response-tokens; an earlier message is taken as ended.
logprobs stands on the message, on the choice or in the row (then it is of the last message):
{"content": [{token, logprob, bytes}, ...]} as in choices[].logprobs of
https://platform.openai.com/docs/api-reference/chat/object and of vLLM
(vllm/entrypoints/openai/chat_completion/protocol.py; with --return-tokens-as-token-ids the tokens
themselves are known). They are taken where they fit the tokens of the model, message by message;
where one of a row does not, none of the row are known. Where they do not tell of the token that
ends a response (OpenAI leaves it out, vLLM tells it), that token stands in the sample but is not
trained on. A message with tool_calls or reasoning_content apart from its text is left out with its
row: in which words it was sampled is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vespo_openrlhf.agents.agent import Message
from vespo_openrlhf.options import Options, option
from vespo_openrlhf.recorded.importing.imported import (
    Imported,
    Importer,
    TokenLogProb,
    Unread,
    Unreadable,
    check_sampled,
    find_files,
    messages_of,
    number_of,
    numbers_of,
    read_each,
    read_rows,
    sampled_messages,
    text_of,
)

#: What OpenAI tells of a token that was not among its most likely ones, in the place of a number.
_NOT_TOLD = -9999.0
_TOKEN_ID = "token_id:"


class Chat(Importer):
    """See the module."""

    @dataclass(frozen=True)
    class Settings(Options):
        """Flags of --from chat."""

        turns: Literal["all", "last"] = option(
            "all", "which messages of the assistant were sampled: all, or the last"
        )
        reward_column: str = option("reward", "a number")
        id_column: str = option("prompt_id", "rows of the same are a group; need not be there")
        label_column: str = option("label", "what the reward is given by; need not be there")

    def rows(self) -> Iterator[Imported | Unread]:
        files = find_files(self.sources, ["*.jsonl", "*.json"], "chats")
        return read_each(read_rows(files), self._read)

    def _read(self, place: str, row: Mapping[str, Any]) -> Iterator[Imported]:
        messages = row.get("messages")
        if messages is None:
            raise Unreadable("no_prompt")
        choices = row.get("choices") or [{}]
        if not isinstance(choices, Sequence) or not all(isinstance(c, Mapping) for c in choices):
            raise Unreadable("not_text")
        if len(choices) > 1 and not all(choice.get("message") for choice in choices):
            raise Unreadable("no_response")
        for choice in choices:
            said = [choice["message"]] if choice.get("message") else []
            yield self._sample(place, row, choice, [*_messages_of_row(messages), *said])

    def _sample(
        self, place: str, row: Mapping[str, Any], choice: Mapping[str, Any], raw: Sequence[Any]
    ) -> Imported:
        sampled = sampled_messages(raw)
        if self.settings.turns == "last":
            sampled = sampled[-1:]
        check_sampled(raw, sampled)
        first, last = sampled[0], sampled[-1]
        messages = [
            _plain(message, i in sampled) for i, message in enumerate(messages_of(raw[: last + 1]))
        ]
        places = (raw[last], choice, row)
        finish = next(filter(None, (each.get("finish_reason") for each in places)), "")
        told = [raw[i].get("logprobs") for i in sampled]
        told[-1] = next(filter(None, (each.get("logprobs") for each in places)), None)
        reward = choice.get(self.settings.reward_column, row.get(self.settings.reward_column))
        parts = choice.get("rewards", row.get("rewards"))
        return Imported(
            messages[:first],
            messages[first:],
            place,
            reward=number_of(reward),
            parts=numbers_of(parts, parts) if isinstance(parts, Mapping) else {},
            prompt_id=text_of(row.get(self.settings.id_column)),
            label=text_of(row.get(self.settings.label_column)),
            finish_reason=finish if finish in ("stop", "length") else "",
            log_probs=[_log_probs(each) for each in told] if any(told) else (),
        )


def _messages_of_row(value: Any) -> Sequence[Any]:
    """The messages of a row, as they are.

    Raises:
        Unreadable: it is no list of objects.
    """
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise Unreadable("not_text")
    return value


def _plain(message: Message, sampled: bool) -> Message:
    """What a chat template has to see of it, and whether it was sampled."""
    kept: dict[str, Any] = {
        name: value
        for name, value in message.items()
        if name not in ("weight", "logprobs", "finish_reason")
    }
    if message["role"] == "assistant" and not sampled:
        kept["weight"] = 0
    return kept


def _log_probs(told: Any) -> list[TokenLogProb] | None:
    """Of the tokens of one message; None where they are not told, none where they are not told as
    they should be."""
    content = told.get("content") if isinstance(told, Mapping) else None
    if not content:
        return None
    found = [_log_prob(each) for each in content] if isinstance(content, list) else [None]
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else []


def _log_prob(told: Any) -> TokenLogProb | None:
    """Of one token."""
    if not isinstance(told, Mapping):
        return None
    token, log_prob, data = told.get("token"), told.get("logprob"), told.get("bytes")
    if not isinstance(token, str) or not isinstance(log_prob, (int, float)):
        return None
    if not math.isfinite(log_prob) or log_prob <= _NOT_TOLD:
        return None
    number = token.removeprefix(_TOKEN_ID)
    numbered = number != token and number.isdigit()
    return TokenLogProb(float(log_prob), token, _bytes(data), int(number) if numbered else None)


def _bytes(data: Any) -> bytes | None:
    try:
        return bytes(data) if isinstance(data, list) else None
    except (TypeError, ValueError):
        return None
