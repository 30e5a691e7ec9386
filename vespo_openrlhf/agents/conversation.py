"""What the environment says, as tokens: the only text of an episode that is tokenised.

A chat template renders whole conversations, and may render an earlier assistant message otherwise
than it was sampled (Qwen3's leaves its thinking out). So nothing of what stands already is rendered
again: of a conversation whose last assistant message is a mark, what follows the mark is what the
messages add.
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from vespo_openrlhf.agents.agent import Message, Observation

_USER = {"role": "user", "content": "."}


class Conversation:
    """The observations of one episode, in turn.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special, self._special_texts = _special_tokens(tokenizer)
        # Nothing in a message is taken for these.
        self._mark, self._echo = uuid.uuid4().hex, uuid.uuid4().hex
        self._messages: list[Message] | None = []  # so far; None once text was among them

    def begin(self, observation: Observation) -> list[int]:
        """The ids of the first observation.

        Raises:
            TypeError: it is neither text nor messages.
            ValueError: the chat template refuses the messages.
        """
        messages = self._note(observation)
        text = observation if messages is None else self._render(messages, prompt=True)
        return self._ids(text)

    def follow(self, observation: Observation, sampled: Sequence[int]) -> list[int]:
        """The ids of an observation after a turn.

        Of text they are its own. Messages come after the end of the assistant's turn, which is
        left out where the policy has sampled it, and before the beginning of the next.

        Args:
            sampled: the turn's tokens.

        Raises:
            TypeError: it is neither text nor messages.
            ValueError: the chat template refuses the messages, or does not render them in the same
                way after every conversation.
        """
        said = {"role": "assistant", "content": self._mark}
        before: list[list[Message]] = [[_USER, said], [_USER, said, _USER, said]]
        if self._messages is not None:
            self._messages.append(said)
            before.append([*self._messages])
        messages = self._note(observation)
        if messages is None:
            return self._ids(observation)
        rendered = {self._after(known, messages) for known in before}
        if len(rendered) > 1:
            raise ValueError(
                f"the chat template of {self._name} renders the messages that follow an assistant "
                "message differently by what came before (a system message that moves to the last "
                "user message, a number of rounds), so they cannot be added to what was sampled: "
                "put the system message's text into the first user message, or return text"
            )
        text = rendered.pop()
        echoes = [{**message, "content": self._echo} for message in messages]
        if self._after(before[0], echoes).count(self._echo) < len(messages):
            raise ValueError(
                f"the chat template of {self._name} leaves out messages of the roles "
                f"{_roles(messages)}: give them the role user, or return text"
            )
        ids = self._ids(text)
        end = next((at for at, token in enumerate(ids) if token in self._special), None)
        if end is not None and not self.decode(ids[:end]).strip():
            return ids[end + 1 :] if sampled[-1:] == [ids[end]] else ids
        closing = _common_start(text, self._after(before[0], []))
        ended = closing and self.decode(sampled).endswith(closing)
        return self._ids(text[len(closing) :]) if ended else ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of tokens, spaces as they are."""
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return text

    @property
    def _name(self) -> str:
        return getattr(self._tokenizer, "name_or_path", "") or type(self._tokenizer).__name__

    def _note(self, observation: Observation) -> list[Message] | None:
        """Check an observation and keep it; its messages, or None of text."""
        if isinstance(observation, str):
            self._messages = None
            return None
        messages: Sequence[Message] = observation
        if not isinstance(messages, Sequence) or not all(
            isinstance(message, Mapping) and {"role", "content"} <= message.keys()
            for message in messages
        ):
            raise TypeError(
                "an observation is text, or a list of messages with a role and a content; not "
                f"{observation!r:.200}"
            )
        if not messages:
            raise ValueError("an observation without messages: return one at least, or text")
        harmless = [self._without_marks(message) for message in messages]
        if self._messages is not None:
            self._messages.extend(harmless)
        return harmless

    def _without_marks(self, message: Message) -> Message:
        """With a space in every special token's text: what a tool prints must not end the turn that
        it stands in, and forge another's."""
        content = message["content"]
        if isinstance(content, str):
            for mark in self._special_texts:
                content = content.replace(mark, f"{mark[0]} {mark[1:]}")
        return {**message, "content": content}

    def _after(self, known: Sequence[Message], messages: Sequence[Message]) -> str:
        """What the template writes after the known conversation's last assistant message."""
        text = self._render([*known, *messages], prompt=bool(messages))
        if self._mark not in text:
            raise ValueError(
                f"the chat template of {self._name} does not render an assistant message as it is, "
                "so messages cannot be added to it: return text"
            )
        return text.rpartition(self._mark)[2]

    def _render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except Exception as error:
            raise ValueError(
                f"the chat template of {self._name} refuses messages of the roles "
                f"{_roles(messages)}: {error}"
            ) from error
        return text

    def _ids(self, text: Any) -> list[int]:
        return list(self._tokenizer(text=text, add_special_tokens=False)["input_ids"])


def _roles(messages: Sequence[Message]) -> str:
    return ", ".join(str(message["role"]) for message in messages)


@functools.lru_cache(maxsize=4)
def _special_tokens(tokenizer: Any) -> tuple[frozenset[int], tuple[str, ...]]:
    """Their ids, and the texts that stand for them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = frozenset((*tokenizer.all_special_ids, *(i for i, t in added.items() if t.special)))
    texts = (tokenizer.decode([token]) for token in sorted(ids))
    return ids, tuple(text for text in texts if len(text) > 1)


def _common_start(a: str, b: str) -> str:
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return "".join(letter for letter, _ in pairs)
