"""The mathematical reward, for ``--reward.remote_url reward/math_reward.py``.

Right answers score 1.0, all others 0.0; :mod:`reward.options` says what may be changed, and
how. Labels are plain answers or JSON objects, see :mod:`reward.labels`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# OpenRLHF loads this file by its path, from any working directory; first on the path, because
# a `reward.py` in that directory would otherwise be taken for this package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vespo_openrlhf.reward.api import label_problems
from vespo_openrlhf.reward.batch import batched
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.scoring import scorer

# `label_problems` is for the trainer, which asks a reward file for it before a run starts.
__all__ = ["label_problems", "reward_func"]

_MISSING = [name for name in ("math_verify", "pebble") if importlib.util.find_spec(name) is None]
if _MISSING:
    raise ImportError(
        f"the mathematical reward needs {', '.join(_MISSING)}: install math-verify pebble"
    )

_OPTIONS = RewardOptions.from_env()

reward_func = batched(scorer(_OPTIONS), _OPTIONS)
