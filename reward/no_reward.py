"""Nothing for whatever the response, for runs in which a teacher alone says what is good.

OpenRLHF asks something for a reward in every run; ``--distill.coef 1`` reads none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], **kwargs: Any
) -> dict[str, Any]:
    """(B,) zeros, in the shape of OpenRLHF's reward functions."""
    nothing = torch.zeros(len(queries))
    return {"rewards": nothing, "scores": nothing, "extra_logs": {}}
