"""A chat endpoint's thinking, with the tags that the verifier tells it from the answer by.

What a server renders the chat to is not seen here. Where its template ends the prompt in
``<think>``, a response begins inside the thinking without a tag; one that was cut there would look
like an answer, and a box in it like the final one. Offline the prompt tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vespo_openrlhf.eval.engines import Completion

OPEN, CLOSE = "<think>", "</think>"
_TIMEOUT_S = 15.0


class Thinking:
    """Puts tags around thinking.

    Args:
        opens: whether replies begin inside it; None if that is to be learnt. Then a reply without
            a tag that was cut off waits for another that tells: thinking apart from the answer,
            or its closing tag without an opening one, or an end without either.
    """

    def __init__(self, opens: bool | None = None) -> None:
        self._opens = opens
        self._learning = opens is None
        self._held: list[Completion] = []

    def take(
        self, index: int, thought: str, content: str | None, tokens: int | None, finish: str
    ) -> list[Completion]:
        """A reply as its completion, and those that waited for what it tells.

        Args:
            index: of the request.
            thought: what the server hands over apart as thinking; empty is none.
            content: the answer; None or, cut off at the limit, empty is none.
            tokens, finish: as in `Completion`.
        """
        if thought:
            self._learn(True)
            closed = content is not None and (content.strip() or finish != "length")
            text = f"{OPEN}\n{thought}" + (f"\n{CLOSE}\n{content}" if closed else "")
            return [Completion(index, text, tokens, finish), *self.rest()]
        completion = Completion(index, content or "", tokens, finish)
        if OPEN in completion.text:
            return [completion]
        if CLOSE in completion.text:
            self._learn(True)
            return [completion, *self.rest()]
        if finish != "length":
            self._learn(False)
            return [completion, *self.rest()]
        self._held.append(completion)
        return [] if self._opens is None else self.rest()

    def _learn(self, opens: bool) -> None:
        if self._learning:
            self._opens = opens or bool(self._opens)

    def rest(self) -> list[Completion]:
        """Those that waited, by what is known now."""
        held, self._held = self._held, []
        if not self._opens:
            return held
        return [replace(c, text=f"{OPEN}\n{c.text}") for c in held]


async def opens_thinking(
    client: Any, base_url: str, model: str, options: Mapping[str, Any]
) -> bool | None:
    """Whether a server's chat template ends the prompt in ``<think>``, as vLLM's can be asked.

    Args:
        client: OpenAI's, of that server.
        base_url: of its API.
        model: the name it knows the model by.
        options: for the chat template.

    Returns:
        None where the server does not tell.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "1+1"}],
        "return_token_strs": True,
        "chat_template_kwargs": dict(options),
    }
    try:
        reply = await client.with_options(max_retries=0, timeout=_TIMEOUT_S).post(
            f"{base_url.removesuffix('/v1')}/tokenize", cast_to=object, body=body
        )
        text = "".join(reply["token_strs"])
    except Exception:  # another server, which may answer anything
        return None
    # Tokens stand in their vocabulary's spelling, where Ċ is a line's end and Ġ or ▁ a space.
    return re.search(rf"{OPEN}[\sĊĠ▁]*\Z", text) is not None
