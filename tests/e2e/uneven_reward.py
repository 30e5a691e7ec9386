"""The even-digits reward, which logs other names from sample to sample, and is at times no number.

A user's file for OpenRLHF; `score` also stands behind the HTTP server of test_ranks.py.
"""

import math
import zlib


def score(query, prompt):
    """The reward of one sample, and what it logs of it."""
    digits = [c for c in query.removeprefix(prompt) if c.isdigit()]
    kind = zlib.crc32(query.encode()) % 8
    if kind == 0:
        return math.nan, {"failed": 1.0}
    reward = sum(int(c) % 2 == 0 for c in digits) / max(len(digits), 1)
    logs = {"digits": float(len(digits)), "answered": math.nan if kind == 1 else 1.0}
    return reward, {name: logs[name] for name in (logs if kind < 5 else ["digits"])}


def reward_func(queries, prompts, labels):
    (query,), (prompt,) = queries, prompts
    reward, logs = score(query, prompt)
    return {"rewards": reward, "scores": reward, "extra_logs": logs}
