"""A reward of your own: a function for one sample, with our pool, limits, batching and logs.

# my_reward.py, for --reward.remote_url my_reward.py
from vespo_openrlhf.reward import make_reward_func

def score(response, label, prompt):
    return 1.0 if label in response else 0.0

reward_func = make_reward_func(score)
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from typing import Any

from vespo_openrlhf.reward.batch import RewardFunc, Score, batched
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.pool import client
from vespo_openrlhf.reward.verdict import UNJUDGED, note_unjudged

_COUNTS = ("timeout", *UNJUDGED)

UserScore = Callable[[str, Any, str], "float | dict[str, float]"]


def make_reward_func(
    score: UserScore, *, timeout_s: float = 30.0, isolated: bool = True
) -> RewardFunc:
    """OpenRLHF's ``reward_func`` around a ``score(response, label, prompt)``.

    Args:
        score: returns the score, or a dict with ``"score"`` and further numbers to log. It is
            looked up by its name in its file, so it must be defined at the top of a module. It may
            be called again for a sample where its process dies in mid-call.
        timeout_s: seconds a call may run before its process is killed; it then scores 0.
        isolated: run in the worker processes, which are killed at the limit. False runs in the
            caller's thread, without that limit: for a score that only waits for a network and
            keeps its own time.

    Raises:
        ValueError: an isolated score that a worker could not look up.
    """
    if not 0 < timeout_s <= 600:
        raise ValueError("timeout_s must be between 0 and 600 seconds")
    if not isolated:
        return batched(
            lambda *sample: _to_score(score(*sample)),
            RewardOptions.from_env(),
            _COUNTS,
            uses_workers=False,
        )
    path = inspect.getsourcefile(score)
    name = getattr(score, "__qualname__", "")
    if path is None or not name.isidentifier() or not os.path.exists(path):
        raise ValueError("score must be a function at the top level of a file")
    isolated_call = isolated_score(os.path.abspath(path), name, timeout_s)
    return batched(isolated_call, RewardOptions.from_env(), _COUNTS)


def isolated_score(path: str, name: str, timeout_s: float) -> Callable[[str, Any, str], Score]:
    """Calls ``name`` of the file ``path`` in the worker processes.

    A call that is killed at its limit scores 0; one that no worker could make, and one in which
    the verifier could not judge, is noted as unjudged.
    """

    def call(response: str, label: Any, prompt: str) -> Score:
        try:
            done = client.call("score", path, name, response, label, prompt, timeout_s=timeout_s)
        except client.FailedError as failure:
            if str(failure) == "timeout":
                return Score(0.0, {"timeout": 1.0})
            done = {"unjudged": str(failure)}
        if "error" in done:
            raise RuntimeError(f"{os.path.basename(path)}:{name}: {done['error']}")
        if "unjudged" in done:
            note_unjudged(done["unjudged"])
            return Score(math.nan)
        return _to_score(done["result"])

    return call


def _to_score(result: float | dict[str, float]) -> Score:
    if isinstance(result, dict):
        if "score" not in result:
            raise ValueError("a score that is a dict needs the key 'score'")
        logs = {str(k): float(v) for k, v in result.items() if k != "score"}
        value = float(result["score"])
    else:
        logs, value = {}, float(result)
    if not math.isfinite(value):
        raise ValueError(f"the score is {value}")
    return Score(value, logs)
