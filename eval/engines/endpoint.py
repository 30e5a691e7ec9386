"""Any OpenAI-compatible server, over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import queue
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vespo_openrlhf.eval.engines import FAILED, Completion, Request
from vespo_openrlhf.eval.engines.thinking import Thinking, opens_thinking
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.options import Options

KEY_VARIABLE = "OPENAI_API_KEY"
_PROBE_S = 15.0
_MESSAGE_CHARS = 300
_RETRIED = (408, 409, 429)  # and 5xx: the client does so


@dataclass(frozen=True)
class Endpoint:
    """Where a server is and how hard it may be asked.

    Attributes:
        url: its base, such as ``http://127.0.0.1:8000/v1``; ``USER:PASSWORD@`` before the host is
            sent as basic authentication, and neither printed nor recorded.
        concurrency: requests in flight.
        requests_per_minute: 0 is as many as the server answers.
        retries: of one request, with exponential backoff, on a lost connection, a time-out, 408,
            409, 429 and 5xx; a ``Retry-After`` is kept.
        timeout_s: of one request.
        max_completion_tokens: chat requests call the longest response so, not ``max_tokens``.
        key_over_http: send the key (or the password) over plain http to another machine too.
    """

    url: str
    concurrency: int = 64
    requests_per_minute: float = 0.0
    retries: int = 6
    timeout_s: float = 3600.0
    max_completion_tokens: bool = False
    key_over_http: bool = False

    def __post_init__(self) -> None:
        shown = re.sub(r"^(\w+://)?.*@", r"\1***@", re.sub(r"[?#].*", "?***", self.url))
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--endpoint {shown}: give a URL such as http://127.0.0.1:8000/v1")
        if parts.query or parts.fragment:
            raise ValueError(f"--endpoint {shown}: leave out what follows the path")
        if "@" in parts.netloc and self.is_open:
            raise ValueError(
                f"--endpoint {shown}: anyone on the way could read the password; use https, or "
                "send it all the same with --key-over-http"
            )
        if self.concurrency < 1:
            raise ValueError(f"--concurrency must be 1 or more, not {self.concurrency}")
        if self.requests_per_minute < 0 or self.retries < 0:
            raise ValueError("--requests-per-minute and --retries must not be negative")

    @property
    def base_url(self) -> str:
        """The URL that paths such as ``/chat/completions`` are appended to."""
        url = self.url.rstrip("/")
        return url if urlsplit(url).path else f"{url}/v1"

    @property
    def name(self) -> str:
        """The same without user and password: what is printed and recorded."""
        parts = urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2].lower()).geturl()

    @property
    def is_open(self) -> bool:
        """Whether a key must not be sent: it would go over a network as it is."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not self.key_over_http and not _is_here(parts.hostname)


def _is_here(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


class EndpointEngine:
    """Sends every prompt to a server; the key, if it wants one, is ``OPENAI_API_KEY``.

    Raises:
        EvaluationError: the server cannot be reached, refuses the key, or does not have the model.
    """

    def __init__(self, endpoint: Endpoint, model: str, options: Options) -> None:
        self._endpoint = endpoint
        self._model = model
        self._options = options
        self._key = os.environ.get(KEY_VARIABLE) or "none"
        self._withheld = self._key != "none" and endpoint.is_open
        self._queue: queue.SimpleQueue[Completion | BaseException] = queue.SimpleQueue()
        if self._withheld:
            print(f"WARNING: {self._hint()}", file=sys.stderr)
        self._thinking = Thinking(asyncio.run(self._probe()))

    def _client(self) -> Any:
        import openai

        return openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key="none" if self._withheld else self._key,
            max_retries=self._endpoint.retries,
            timeout=self._endpoint.timeout_s,
        )

    async def _probe(self) -> bool | None:
        """Ask for the list of models, so that a wrong address fails now and clearly.

        Returns:
            Whether the server's chat template opens the model's thinking; None if it cannot tell.
        """
        import openai

        known: list[str] = []
        async with self._client().with_options(max_retries=1, timeout=_PROBE_S) as client:
            try:
                known = [str(model.id) async for model in client.models.list()]
            except openai.APIStatusError as error:
                if error.status_code in (401, 403):
                    raise EvaluationError(self._message(error)) from error
            except openai.OpenAIError as error:
                raise EvaluationError(self._message(error)) from error
            except (ValueError, TypeError, AttributeError):
                pass  # not every server lists its models
            if known and self._model not in known:
                raise EvaluationError(
                    f"{self._endpoint.name} serves {', '.join(known[:5])}, not {self._model}: give "
                    "one of these as --model"
                )
            options = self._options.chat_template_options
            return await opens_thinking(client, self._endpoint.base_url, self._model, options)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they arrive; a request that failed is one with `finish_reason` `FAILED`.

        Raises:
            EvaluationError: the server cannot be reached any more.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(requests, stop), daemon=True)
        thread.start()
        try:
            for _ in requests:
                item = self._queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()

    def _run(self, requests: Sequence[Request], stop: threading.Event) -> None:
        try:
            asyncio.run(self._answer_all(requests, stop))
        except Exception as error:  # raised where the completions are waited for
            self._queue.put(error)

    async def _answer_all(self, requests: Sequence[Request], stop: threading.Event) -> None:
        pace = 60 / rate if (rate := self._endpoint.requests_per_minute) else 0.0
        numbers = iter(range(len(requests)))
        loop = asyncio.get_running_loop()
        free_at = loop.time()

        async def lane(client: Any) -> None:
            nonlocal free_at
            for number in numbers:
                if stop.is_set():
                    return
                if pace:
                    wait = free_at - loop.time()
                    free_at = max(free_at, loop.time()) + pace
                    await asyncio.sleep(max(0.0, wait))
                for completion in await self._answer(client, number, requests[number]):
                    self._queue.put(completion)

        async with self._client() as client:
            lanes = min(self._endpoint.concurrency, len(requests))
            tasks = [asyncio.create_task(lane(client)) for _ in range(lanes)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                for completion in self._thinking.rest():
                    self._queue.put(completion)

    async def _answer(self, client: Any, index: int, request: Request) -> list[Completion]:
        """What is known of the responses once this request is answered.

        Raises:
            EvaluationError: the server is gone.
        """
        import openai

        try:
            reply = await self._ask(client, request)
            choice, tokens, finish = _read(reply)
            if request.prompt.messages is None:
                return [Completion(index, _text(choice.text), tokens, finish)]
            thought, content = _message_parts(choice.message)
        except openai.APIConnectionError as error:  # time-outs too
            await self._check_presence(client)
            return [self._failed(index, error, server_fault=True)]
        except openai.APIStatusError as error:
            fault = error.status_code >= 500 or error.status_code in _RETRIED
            return [self._failed(index, error, server_fault=fault)]
        except (openai.OpenAIError, ValueError) as error:  # no JSON, or no completion in it
            return [self._failed(index, error)]
        return self._thinking.take(index, thought, content, tokens, finish)

    async def _ask(self, client: Any, request: Request) -> Any:
        options = self._options
        fields: dict[str, Any] = {
            "model": self._model,
            "temperature": request.temperature,
            "top_p": options.top_p,
            "max_tokens": options.max_tokens,
            "seed": request.seed,
        }
        if options.stop:
            fields["stop"] = list(options.stop)
        # Not all of them are OpenAI's own; servers of open models read the rest.
        body: dict[str, Any] = dict(options.more_sampling)
        fields["extra_body"] = body
        if request.prompt.messages is None:
            return await client.completions.create(prompt=request.prompt.text, **fields)
        if options.chat_template_options:
            body["chat_template_kwargs"] = dict(options.chat_template_options)
        if self._endpoint.max_completion_tokens:
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        return await client.chat.completions.create(
            messages=list(request.prompt.messages), **fields
        )

    async def _check_presence(self, client: Any) -> None:
        """A connection may break on one request, or because there is no server any more."""
        import openai

        try:
            await client.with_options(max_retries=1, timeout=_PROBE_S).models.list()
        except openai.APIConnectionError as error:
            raise EvaluationError(self._message(error)) from error
        except Exception:
            return  # it answers, if not this

    def _failed(self, index: int, error: Exception, *, server_fault: bool = False) -> Completion:
        return Completion(index, "", None, FAILED, self._message(error), server_fault)

    def close(self) -> None:
        """Nothing is kept open between calls."""

    def _hint(self) -> str:
        return (
            f"{KEY_VARIABLE} is not sent to {self._endpoint.name}, where anyone on the way could "
            "read it: use https, or --key-over-http"
        )

    def _message(self, error: Exception) -> str:
        """What went wrong, in a line without key or password."""
        import openai

        where = self._endpoint.name
        if isinstance(error, openai.APIConnectionError):  # time-outs too
            cause = error.__cause__ or error
            text = f"the endpoint {where} cannot be reached ({cause}): is the server up?"
        elif isinstance(error, openai.APIStatusError):
            told = error.body  # str(error) leaves out what is not of OpenAI's form
            told = (told.get("message") or told) if isinstance(told, dict) else told
            reason = _line(f"{error.status_code}: {told}")
            hint = ""
            if error.status_code in (401, 403):
                hint = f" {self._hint()}." if self._withheld else f" Set {KEY_VARIABLE}."
            text = f"the endpoint {where} refused a request ({reason}).{hint}"
        else:
            text = f"the endpoint {where} failed: {_line(str(error))}"
        parts = urlsplit(self._endpoint.url)
        for secret in (self._key, parts.password or parts.username or "none"):
            if secret != "none":
                text = text.replace(secret, "***")
        return text


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_CHARS else f"{text[:_MESSAGE_CHARS]} ..."


def _read(reply: Any) -> tuple[Any, int | None, str]:
    """The first choice of a reply, the tokens of its response, and why that ended.

    Raises:
        ValueError: there is none in it.
    """
    choices = getattr(reply, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not hasattr(choice, "text") and not hasattr(choice, "message"):
        # Some servers report an error with status 200.
        shown = getattr(reply, "error", None) or f"no choices in {reply!r}"
        raise ValueError(f"the reply is no completion: {shown}")
    finish = getattr(choice, "finish_reason", None) or ""
    if finish == FAILED:
        raise ValueError(f"the server broke off: {getattr(choice, 'error', None)}")
    tokens = getattr(getattr(reply, "usage", None), "completion_tokens", None)
    return choice, tokens if isinstance(tokens, int) else None, str(finish)


def _message_parts(message: Any) -> tuple[str, str | None]:
    """Thinking that the server hands over apart from the answer, else empty; and the answer."""
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    content = getattr(message, "content", None)
    if message is None or isinstance(message, str) or not isinstance(thought, str | None):
        raise ValueError(f"the reply is no completion: its message is {message!r}")
    return thought or "", None if content is None else _text(content)


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise ValueError(f"the reply is no completion: its text is {content!r}")
    return content
