"""Any OpenAI-compatible server, over HTTP."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vespo_openrlhf.eval.engines import Completion, Request
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.settings import Settings

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Endpoint:
    """Where a server is and how hard it may be asked.

    Attributes:
        url: its base, such as ``http://127.0.0.1:8000/v1``.
        concurrency: requests in flight.
        requests_per_minute: 0 is as many as the server answers.
        retries: of one request, with exponential backoff, on a lost connection, a time-out, 408,
            409, 429 and 5xx; a ``Retry-After`` is kept.
        timeout_s: of one request.
        max_completion_tokens: chat requests call the longest response so, not ``max_tokens``.
    """

    url: str
    concurrency: int = 64
    requests_per_minute: float = 0.0
    retries: int = 6
    timeout_s: float = 3600.0
    max_completion_tokens: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"--endpoint {self.url}: give a URL such as http://127.0.0.1:8000/v1")
        if self.concurrency < 1:
            raise ValueError(f"--concurrency must be 1 or more, not {self.concurrency}")
        if self.requests_per_minute < 0 or self.retries < 0:
            raise ValueError("--requests-per-minute and --retries must not be negative")

    @property
    def base_url(self) -> str:
        """The URL that paths such as ``/chat/completions`` are appended to."""
        url = self.url.rstrip("/")
        return url if urlsplit(url).path else f"{url}/v1"


class EndpointEngine:
    """Sends every prompt to a server; the key, if it wants one, is ``OPENAI_API_KEY``.

    Raises:
        EvaluationError: the server cannot be reached, refuses the key, or does not have the model.
    """

    def __init__(self, endpoint: Endpoint, model: str, settings: Settings) -> None:
        self._endpoint = endpoint
        self._model = model
        self._settings = settings
        self._queue: queue.SimpleQueue[Completion | BaseException] = queue.SimpleQueue()
        asyncio.run(self._probe())

    def _client(self) -> Any:
        import openai

        return openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key=os.environ.get(KEY_VARIABLE, "none"),
            max_retries=self._endpoint.retries,
            timeout=self._endpoint.timeout_s,
        )

    async def _probe(self) -> None:
        """Ask for the list of models, so that a wrong address fails now and clearly."""
        import openai

        try:
            async with self._client().with_options(max_retries=1, timeout=15) as client:
                known = [model.id async for model in client.models.list()]
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise EvaluationError(self._message(error)) from error
            return  # not every server lists its models
        except openai.OpenAIError as error:
            raise EvaluationError(self._message(error)) from error
        if known and self._model not in known:
            raise EvaluationError(
                f"{self._endpoint.base_url} serves {', '.join(known[:5])}, not {self._model}: give "
                "one of these as --model"
            )

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they arrive."""
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
        except Exception as error:
            import openai

            known = isinstance(error, openai.OpenAIError)
            self._queue.put(EvaluationError(self._message(error)) if known else error)

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
                self._queue.put(await self._answer(client, number, requests[number]))

        async with self._client() as client:
            lanes = min(self._endpoint.concurrency, len(requests))
            tasks = [asyncio.create_task(lane(client)) for _ in range(lanes)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

    async def _answer(self, client: Any, index: int, request: Request) -> Completion:
        settings = self._settings
        options: dict[str, Any] = {
            "model": self._model,
            "temperature": request.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "seed": request.seed,
        }
        if settings.stop:
            options["stop"] = list(settings.stop)
        # Not all of them are OpenAI's own; servers of open models read the rest.
        body: dict[str, Any] = dict(settings.more_sampling)
        options["extra_body"] = body
        if request.prompt.messages is None:
            reply = await client.completions.create(prompt=request.prompt.text, **options)
            text = reply.choices[0].text
        else:
            if settings.chat_template_options:
                body["chat_template_kwargs"] = dict(settings.chat_template_options)
            if self._endpoint.max_completion_tokens:
                options["max_completion_tokens"] = options.pop("max_tokens")
            reply = await client.chat.completions.create(
                messages=list(request.prompt.messages), **options
            )
            text = _whole_text(reply.choices[0].message)
        tokens = reply.usage.completion_tokens if reply.usage else None
        return Completion(index, text, tokens, reply.choices[0].finish_reason or "")

    def close(self) -> None:
        """Nothing is kept open between calls."""

    def _message(self, error: Exception) -> str:
        import openai

        where = self._endpoint.base_url
        if isinstance(error, openai.APIConnectionError):  # time-outs too
            cause = error.__cause__ or error
            return f"the endpoint {where} cannot be reached ({cause}): is the server up?"
        if isinstance(error, openai.APIStatusError):
            hint = f" Set {KEY_VARIABLE}." if error.status_code in (401, 403) else ""
            return f"the endpoint {where} refused a request ({error}).{hint}"
        return f"the endpoint {where} failed: {error}"


def _whole_text(message: Any) -> str:
    """A message with its thinking, which some servers hand over apart from the answer."""
    thinking = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if not thinking:
        return message.content or ""
    closing = f"\n</think>\n{message.content}" if message.content is not None else ""
    return f"<think>\n{thinking}{closing}"
