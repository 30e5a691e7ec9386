"""``vespo reward serve``: OpenRLHF's remote reward contract over HTTP.

POST ``/get_reward`` (or ``/``) with ``{"query": [...], "prompts": [...], "labels": [...]}``
answers ``{"rewards": [...], "scores": [...], "extra_logs": {...}}``, a sample that could not be
judged being ``NaN`` (which Python's JSON reads); GET ``/health`` answers ``{"status": "ok"}``.

With a token it answers those who send it, as a bearer token, as the password in the address
(``http://:TOKEN@host:5000/get_reward``, which OpenRLHF's client sends and does not log) or as
``?token=``. Without one it listens on the loopback address alone, and answers no name but that, so
that no web page can have a browser ask. What a request may hold and take to arrive is bounded, and
it counts as one in hand, beyond whose number the answer is 503, only when it is there.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import json
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from vespo_openrlhf.reward.batch import RewardFunc

MAX_BATCH = 4096
BODY_S = 10.0
#: Bytes of all bodies that are being read or worked on, as multiples of the longest body.
BODIES_AT_ONCE = 4


def _strings(body: dict[str, Any], *names: str) -> Sequence[Any]:
    for name in names:
        if name in body:
            value = body[name]
            if not isinstance(value, list):
                raise ValueError(f"{name!r} must be a list")
            return value
    raise ValueError(f"missing {names[0]!r}")


def read_request(body: Any) -> tuple[Sequence[str], Sequence[str], Sequence[Any]]:
    """The queries, prompts and labels of a request.

    Raises:
        ValueError: the request is malformed.
    """
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    queries = _strings(body, "query", "queries")
    prompts, labels = _strings(body, "prompts"), _strings(body, "labels")
    if not len(queries) == len(prompts) == len(labels):
        raise ValueError("'query', 'prompts' and 'labels' must be of one length")
    if not 0 < len(queries) <= MAX_BATCH:
        raise ValueError(f"between 1 and {MAX_BATCH} samples a request")
    if not all(isinstance(text, str) for text in (*queries, *prompts)):
        raise ValueError("'query' and 'prompts' must hold strings")
    return queries, prompts, labels


class RefusedError(Exception):
    """A request that is not worked on: its HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def is_loopback(host: str) -> bool:
    """Whether a host's name or address, without a port, can be this machine's loopback alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_caller(request: web.Request, token: str) -> None:
    """Refuse who does not know the token; without a token, who may be a web page.

    Raises:
        RefusedError: with 401 or 403.
    """
    if token:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given).decode().partition(":")[2]
            except ValueError:
                given = ""
        given = given or request.query.get("token", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
            raise RefusedError(401, "the token is missing or wrong")
    elif not is_loopback(re.sub(r":\d*$", "", request.host)):
        # A page can give its own name our address, and is then let read what we answer.
        raise RefusedError(403, "without a token this server is asked as localhost alone")
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise RefusedError(403, "pages of other sites may not ask")
    if request.content_type != "application/json":
        raise RefusedError(415, "the content type must be application/json")


class _Bodies:
    """Reads bodies, and knows how much of them is held."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.held = 0

    async def read(self, request: web.Request, body: bytearray) -> None:
        """Read a body to its end; the caller gives its length back to ``held``.

        Raises:
            RefusedError: 408, 413 or 503.
        """

        async def parts() -> None:
            async for part in request.content.iter_any():
                if len(body) + len(part) > self.longest:
                    raise RefusedError(413, f"more than {self.longest} bytes")
                if self.held + len(part) > BODIES_AT_ONCE * self.longest:
                    raise RefusedError(503, "too many bytes in hand")
                body.extend(part)
                self.held += len(part)

        if (request.content_length or 0) > self.longest:
            raise RefusedError(413, f"more than {self.longest} bytes")
        try:
            await asyncio.wait_for(parts(), BODY_S)
        except asyncio.TimeoutError:
            raise RefusedError(408, f"the body took more than {BODY_S:g} s") from None


def application(
    reward_func: RewardFunc, *, max_body: int, max_requests: int, token: str = ""
) -> web.Application:
    """The HTTP application around a reward function.

    Args:
        reward_func: as OpenRLHF calls it.
        max_body: bytes of a request's body.
        max_requests: requests worked on at a time; one more is answered 503.
        token: what callers must send; "" lets this machine's own ask without.
    """
    bodies = _Bodies(max_body)
    in_hand = 0

    async def work(request: web.Request, body: bytearray) -> dict[str, Any]:
        nonlocal in_hand
        if in_hand >= max_requests:
            raise RefusedError(503, "too many requests in hand")
        in_hand += 1
        try:
            text = body.decode(request.charset or "utf-8")
            return await asyncio.to_thread(reward_func, *read_request(json.loads(text)))
        except (ValueError, LookupError, RecursionError) as error:
            raise RefusedError(400, str(error)[:500]) from error
        finally:
            in_hand -= 1

    async def reward(request: web.Request) -> web.Response:
        body = bytearray()
        try:
            check_caller(request, token)
            await bodies.read(request, body)
            result = await work(request, body)
        except RefusedError as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        finally:
            bodies.held -= len(body)
        return web.json_response(
            {
                "rewards": result["rewards"].tolist(),
                "scores": result["scores"].tolist(),
                "extra_logs": result["extra_logs"],
            }
        )

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.add_routes(
        [web.post("/get_reward", reward), web.post("/", reward), web.get("/health", health)]
    )
    return app


def main(host: str, port: int, max_body: int, max_requests: int, token: str) -> None:
    """Serve the mathematical reward until interrupted.

    Raises:
        ValueError: others than this machine could ask, and there is no token.
    """
    if not token and not is_loopback(host):
        raise ValueError(
            f"--host {host} lets other machines ask: set REWARD_TOKEN (or --token) to a secret of "
            "your own, and --reward.remote_url to http://:THAT@HOST:PORT/get_reward"
        )
    from vespo_openrlhf.reward.math_reward import reward_func

    app = application(reward_func, max_body=max_body, max_requests=max_requests, token=token)
    web.run_app(app, host=host, port=port, print=None, access_log=None)
