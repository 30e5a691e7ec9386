"""Rows of an importer as tokens of a model."""

from __future__ import annotations

import functools
import json
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from vespo_openrlhf.agents.agent import Message
from vespo_openrlhf.agents.conversation import Conversation
from vespo_openrlhf.recorded.importing.aligned import Aligned, align
from vespo_openrlhf.recorded.importing.imported import Imported, TokenLogProb, Unreadable
from vespo_openrlhf.recorded.schema import Turns

#: What is noticed of samples that are kept -> what it means.
NOTES = {
    "assumed_ended": "taken as ended, as their source does not say (see --max-response-tokens)",
    "restored": "whose prompts have the special tokens of the chat template put back",
    "guessed": "whose prompts have them put back by one of several readings",
    "as_text": "whose prompts have lost their special tokens, if they had any: taken as they are",
    "not_aligned": "whose log-probs are not of each turn and token of the model: left unknown",
    "end_unknown": "with log-probs, but none of the token that ends them: not trained on",
}

_KEPT_PROMPTS = 4096
_MARKED = 8  # prompts of so many messages at most are recognised,
_MARKED_UNSEEN = 3  # and where nothing can be seen between them of so many


class Encoded(NamedTuple):
    """The tokens of a sample: see `RecordedSample`."""

    tokens: Any
    action_mask: Any
    log_probs: Any
    prompt: str
    turns: Turns
    finish_reason: str


class _Pattern(NamedTuple):
    """Of a prompt without special tokens, by the shortest and by the longest first message; `seen`:
    more than white space stands between all messages."""

    shortest: re.Pattern[str]
    longest: re.Pattern[str]
    seen: bool


class _Turn(NamedTuple):
    """What was sampled at one time; `sampled` is of the token that ends it, too."""

    tokens: list[int]
    sampled: list[bool]
    log_probs: list[float] | None


class Encoder:
    """Makes tokens of what importers give.

    A prompt of messages is rendered by the chat template with the opening of the assistant's turn,
    one of text is taken as it is, and no special token is added to it, as training does it. A
    response ends with the tokenizer's eos, which the policy sampled, unless it was cut off. The
    messages that come between sampled ones are put to the policy as an episode's are in training
    (`agents.Conversation`).

    Args:
        tokenizer: of transformers.
        apply_chat_template: to prompts of text, too, as the message of a user.
        stripped: texts are of tokens that were decoded without the special ones. Where a prompt is
            what the chat template makes of messages, but for these, they are put back.
        max_response_tokens: a response of as many (of several turns, the last one) was cut off,
            where its source does not say. None: all of these have ended.

    Attributes:
        noted: of samples, by `NOTES`.

    Raises:
        ValueError: the tokenizer has no eos token, or no chat template where one is asked for.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        apply_chat_template: bool = False,
        stripped: bool = False,
        max_response_tokens: int | None = None,
    ) -> None:
        self._tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        self._name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if self._tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {self._name} has no eos token to end responses")
        if apply_chat_template and not self._tokenizer.chat_template:
            raise ValueError(
                f"--apply-chat-template, but the tokenizer of {self._name} has no chat template"
            )
        self._as_chat = apply_chat_template
        self._longest = max_response_tokens
        self._stripped = stripped
        self._eos: int = self._tokenizer.eos_token_id
        self._prompt = functools.lru_cache(_KEPT_PROMPTS)(self._encode_prompt)
        self.noted: Counter[str] = Counter()

    def encode(self, row: Imported) -> Encoded:
        """The tokens of a row.

        Raises:
            Unreadable: it cannot be made into tokens.
            ValueError: the prompt is of messages and the tokenizer has no chat template.
        """
        if not isinstance(row.prompt, str) and not self._tokenizer.chat_template:
            raise ValueError(
                f"{row.place}: the prompt is of chat messages, and the tokenizer of {self._name} "
                "has no chat template: take the model that was trained on them"
            )
        notes: list[str] = []
        response: Any = row.response
        if len(response) == 1 and isinstance(response[0], Mapping):
            response = response[0]["content"]
        elif self._stripped and isinstance(response, str) and self._is_of_turns(response):
            raise Unreadable("several_turns")
        if isinstance(response, str) or isinstance(response[0], int):
            ids, prompt, note = self._prompt(key_of(row.prompt))
            notes += [note] * bool(note)
            parts: list[_Turn | list[int]] = [list(ids)]
            told = row.log_probs[0] if row.log_probs else None
            parts.append(self._turn(response, told, row.finish_reason, notes))
        else:
            parts, prompt = self._encode_chat(row, notes)
        encoded = self._join(parts, prompt)
        if encoded.log_probs is None and any(told is not None for told in row.log_probs):
            notes.append("not_aligned")
        self.noted.update(set(notes))
        return encoded

    def _encode_chat(self, row: Imported, notes: list[str]) -> tuple[list[_Turn | list[int]], str]:
        """The parts of a response of messages, with those of the prompt."""
        messages: Sequence[Any] = row.response
        prompt = self._as_messages(row.prompt)
        conversation = Conversation(self._tokenizer)
        sampled = [i for i, message in enumerate(messages) if _is_sampled(message)]
        try:
            ids = conversation.begin(prompt)
            text = prompt if isinstance(prompt, str) else conversation.decode(ids)
            parts: list[_Turn | list[int]] = [ids]
            for number, at in enumerate(sampled):
                told = row.log_probs[number] if row.log_probs else None
                last = number + 1 == len(sampled)
                finish = row.finish_reason if last else "stop" if self._ends_turns else "length"
                turn = self._turn(messages[at]["content"], told, finish, notes)
                parts.append(turn)
                if not last:
                    between = messages[at + 1 : sampled[number + 1]]
                    plain = [_unweighed(message) for message in between]
                    parts.append(conversation.follow(plain, turn.tokens))
        except Unreadable:
            raise
        except (TypeError, ValueError) as error:
            raise Unreadable("template") from error
        return parts, text

    def _turn(
        self,
        response: Any,
        told: Sequence[TokenLogProb] | None,
        finish: str,
        notes: list[str],
    ) -> _Turn:
        """One sampled turn, with its end unless it was cut off."""
        ids, log_probs, end = self._tokens(response, told)
        known = bool(log_probs)
        if not ids:
            raise Unreadable("no_response")
        sampled = [True] * len(ids)
        if not finish:
            if self._longest is None:
                notes.append("assumed_ended")
            finish = "length" if self._longest and len(ids) >= self._longest else "stop"
        if finish == "stop" and ids[-1] != self._eos:
            ids = [*ids, self._eos]
            sampled.append(not known or end is not None)
            log_probs = [*log_probs, end or 0.0]
            if known and end is None:
                notes.append("end_unknown")
        return _Turn(ids, sampled, log_probs if known else None)

    def _tokens(self, response: Any, told: Sequence[TokenLogProb] | None) -> Aligned:
        """Of a turn, its end apart; without log-probs where they are not known."""
        text = isinstance(response, str)
        if told is not None:
            aligned = (
                align(self._tokenizer, response, told)
                if text
                else Aligned(list(response), [each.log_prob for each in told], None)
            )
            if aligned is not None and len(aligned.tokens) == len(aligned.log_probs):
                return aligned
        return Aligned(self._ids(response) if text else list(response), [], None)

    def _join(self, parts: Sequence[_Turn | list[int]], prompt: str) -> Encoded:
        """The parts in a row; lists are what the policy read."""
        tokens: list[int] = []
        mask: list[bool] = []
        log_probs: list[float] = []
        spans: list[tuple[int, int, float]] = []
        known = True
        for part in parts:
            if not isinstance(part, _Turn):
                tokens += part
                mask += [False] * len(part)
                log_probs += [0.0] * len(part)
                continue
            spans.append((len(tokens), len(tokens) + len(part.tokens), float("nan")))
            tokens += part.tokens
            mask += part.sampled
            known = known and part.log_probs is not None
            log_probs += part.log_probs or [0.0] * len(part.tokens)
        ended = tokens[-1] == self._eos
        return Encoded(
            numpy.array(tokens, numpy.int32),
            numpy.array(mask, bool),
            numpy.array(log_probs, numpy.float32) if known else None,
            prompt,
            tuple(spans) if len(spans) > 1 else (),
            "stop" if ended else "length",
        )

    def _encode_prompt(self, key: str) -> tuple[tuple[int, ...], str, str]:
        """(tokens, text, note) of a prompt."""
        prompt = json.loads(key)
        if isinstance(prompt, str) and self._stripped:
            ids, note = self._restored(prompt)
            if ids is not None:
                return tuple(ids), self._decode(ids), note
        messages = self._as_messages(prompt)
        if isinstance(messages, str):
            return tuple(self._ids(messages)), messages, "as_text" if self._stripped else ""
        conversation = Conversation(self._tokenizer)
        try:
            ids = conversation.begin(messages)
        except (TypeError, ValueError) as error:
            raise Unreadable("template") from error
        return tuple(ids), conversation.decode(ids), ""

    def _as_messages(self, prompt: Any) -> Any:
        if not isinstance(prompt, str):
            return [_unweighed(message) for message in prompt]
        return [{"role": "user", "content": prompt}] if self._as_chat else prompt

    def _restored(self, text: str) -> tuple[list[int] | None, str]:
        """Tokens of the template that read as `text` without the special ones, and a note; None
        where there are none.

        Of several readings the one with the most messages is taken (the opening of a turn in the
        midst of a message is less likely than a turn), of those in which something can be seen
        between all messages. Where one in which nothing can be seen is other tokens, it is a guess.
        """
        found: list[int] | None = None
        guessed = False
        for roles, pattern in self._patterns:
            if found is None or not pattern.seen:
                readings = [self._reading(text, roles, pattern, greedy) for greedy in (False, True)]
                for ids in filter(None, readings):
                    guessed = guessed or (found is not None and ids != found)
                    found = found or ids
        return found, "" if found is None else "guessed" if guessed else "restored"

    def _reading(
        self, text: str, roles: Sequence[str], pattern: _Pattern, greedy: bool
    ) -> list[int] | None:
        """The tokens of these messages, if they read as the text."""
        match = (pattern.longest if greedy else pattern.shortest).fullmatch(text)
        if match is None:
            return None
        contents = zip(roles, match.groups(), strict=True)
        ids = self._render([{"role": role, "content": said} for role, said in contents])
        same = ids is not None and self._decode(ids, skip_special=True) == text
        return ids if same else None

    @functools.cached_property
    def _patterns(self) -> list[tuple[list[str], _Pattern]]:
        """Roles of a prompt, and what it is without special tokens: those in which something can
        be seen between all messages first, of these the longest first."""
        seen, unseen = [], []
        for count in range(_MARKED, 0, -1):
            # A prompt ends with a user, and begins with one or with the system.
            roles = ["user", "assistant"] * (count // 2) + ["user"]
            roles = roles[:count] if count % 2 else ["system", *roles[: count - 1]]
            literals = self._around(roles)
            if literals is None:
                continue
            pattern = _Pattern(
                re.compile("(.*?)".join(map(re.escape, literals)), re.DOTALL),
                re.compile("(.*)".join(map(re.escape, literals)), re.DOTALL),
                all(literal.strip() for literal in literals[1:-1]),
            )
            if pattern.seen:
                seen.append((roles, pattern))
            elif count <= _MARKED_UNSEEN:
                unseen.append((roles, pattern))
        return [*seen, *unseen[::-1]]

    def _is_of_turns(self, response: str) -> bool:
        return bool(self._opening) and self._opening in response

    @functools.cached_property
    def _opening(self) -> str:
        """What stands between a user's message and the response, without special tokens; "" where
        that is too little to be told from a response's own text."""
        opening = (self._around(["user"]) or [""])[-1]
        return opening if "\n" in opening and opening.strip() else ""

    def _around(self, roles: Sequence[str]) -> list[str] | None:
        """What the template puts around the contents, without special tokens."""
        if not self._tokenizer.chat_template:
            return None
        marks = [uuid.uuid4().hex for _ in roles]
        messages = [{"role": role, "content": m} for role, m in zip(roles, marks, strict=True)]
        ids = self._render(messages)
        if ids is None:
            return None
        text = self._decode(ids, skip_special=True)
        literals = re.split("|".join(marks), text)
        return literals if re.findall("|".join(marks), text) == marks else None

    @functools.cached_property
    def _ends_turns(self) -> bool:
        """Whether the template ends the assistant's turn with the eos token."""
        conversation = Conversation(self._tokenizer)
        user = [{"role": "user", "content": "."}]
        conversation.begin(user)
        without = conversation.follow(user, self._ids("."))
        conversation = Conversation(self._tokenizer)
        conversation.begin(user)
        return conversation.follow(user, [*self._ids("."), self._eos]) != without

    def _render(self, messages: Sequence[Message]) -> list[int] | None:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception:  # of the template: it refuses these roles
            return None
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        # Of a text that is longer than the model can take it says so; here that is for `show`.
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return text


def key_of(said: Any) -> str:
    """Of a prompt or response: the same of equal ones, and all that they say is in it."""
    return json.dumps(said, ensure_ascii=False)


def _unweighed(message: Mapping[str, Any]) -> Message:
    return {name: value for name, value in message.items() if name != "weight"}


def _is_sampled(message: Mapping[str, Any]) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0
