"""``vespo reward serve``: OpenRLHF's remote reward contract over HTTP.

POST ``/get_reward`` (or ``/``) with ``{"query": [...], "prompts": [...], "labels": [...]}``
answers ``{"rewards": [...], "scores": [...], "extra_logs": {...}}``; GET ``/health`` answers
``{"status": "ok"}``. It listens on the loopback address unless told otherwise, refuses bodies
and batches beyond its limits, and answers 503 where too many requests are in hand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from vespo_openrlhf.reward.batch import RewardFunc

MAX_BATCH = 4096


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


def application(reward_func: RewardFunc, *, max_body: int, max_requests: int) -> web.Application:
    """The HTTP application around a reward function.

    Args:
        reward_func: as OpenRLHF calls it.
        max_body: bytes of a request's body.
        max_requests: requests worked on at a time; one more is answered 503.
    """
    in_hand = 0

    async def reward(request: web.Request) -> web.Response:
        nonlocal in_hand
        if in_hand >= max_requests:
            return web.json_response({"error": "too many requests in hand"}, status=503)
        in_hand += 1
        try:
            queries, prompts, labels = read_request(json.loads(await request.text()))
            result = await asyncio.to_thread(reward_func, queries, prompts, labels)
        except (ValueError, RecursionError) as error:
            return web.json_response({"error": str(error)[:500]}, status=400)
        finally:
            in_hand -= 1
        return web.json_response(
            {
                "rewards": result["rewards"].tolist(),
                "scores": result["scores"].tolist(),
                "extra_logs": result["extra_logs"],
            }
        )

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application(client_max_size=max_body)
    app.add_routes(
        [web.post("/get_reward", reward), web.post("/", reward), web.get("/health", health)]
    )
    return app


def main(host: str, port: int, max_body: int, max_requests: int) -> None:
    """Serve the mathematical reward until interrupted."""
    from vespo_openrlhf.reward.math_reward import reward_func

    app = application(reward_func, max_body=max_body, max_requests=max_requests)
    web.run_app(app, host=host, port=port, print=None, access_log=None)
