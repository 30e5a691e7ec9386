"""The working lag, steered by the effective sample size of the importance weights."""

from __future__ import annotations

import logging
import math
from typing import Any

from .lag import LagBudget, LagOptions

logger = logging.getLogger(__name__)


def controller_for(options: LagOptions, budget: LagBudget) -> LagController | None:
    """The controller of a run, or None without a target. It starts where generation and training
    just overlap."""
    if options.target_ess is None:
        return None
    start = budget.minimum + budget.updates_per_batch
    return LagController(options.target_ess, budget.minimum, budget.limit, start)


class LagController:
    """Keeps the effective sample size (ESS) at a target by moving the working lag.

    To first order in the lag, log ESS falls in proportion to it, so the lag that meets the target
    is lag * log(target) / log(ESS). A move is at most down to a half or up by a half, and the
    next one waits until the groups dispatched before it have been used: the answer to a move
    comes only with the groups dispatched after it.

    Args:
        target: ESS / samples, in (0, 1).
        minimum: the least working lag, in updates.
        maximum: the greatest; the hard bound of the run.
        start: the first working lag.
    """

    # No move while log ESS is this close (as a share) to the target's: it would be noise.
    TOLERANCE = 0.1

    def __init__(self, target: float, minimum: int, maximum: int, start: int) -> None:
        self.target = target
        self._minimum = minimum
        self._maximum = maximum
        self.lag = min(max(start, minimum), maximum)
        self._log_ess: list[float] = []
        self._settled_at = self.lag

    def observe(self, version: int, ess: float) -> None:
        """A batch was trained with this ESS; the trainer is now at `version`. A move is logged.

        Raises:
            ValueError: `ess` is not a share in [0, 1].
        """
        if not 0 <= ess <= 1:
            raise ValueError(f"the effective sample size is a share in [0, 1], got {ess}")
        if version < self._settled_at:
            return
        self._log_ess.append(math.log(min(max(ess, 1e-6), 1 - 1e-6)))
        log_ess = sum(self._log_ess) / len(self._log_ess)
        ratio = math.log(self.target) / log_ess
        if abs(ratio - 1) < self.TOLERANCE:
            self._log_ess = self._log_ess[-3:]
            return
        lag = max(self.lag, 1) * min(max(ratio, 0.5), 1.5)
        lag = math.floor(lag) if ratio < 1 else math.ceil(lag)
        lag = min(max(lag, self._minimum), self._maximum)
        self._log_ess.clear()
        if lag == self.lag:
            return
        logger.info(
            "working lag %d -> %d updates at version %d: ESS %.3f, target %.3f",
            *(self.lag, lag, version, math.exp(log_ess), self.target),
        )
        # Groups sent with the old lag are used by then; the longer of the two, to be sure.
        self._settled_at = version + max(self.lag, lag)
        self.lag = lag

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON data for `load_state_dict`."""
        return {"lag": self.lag, "settled_at": self._settled_at, "log_ess": self._log_ess}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, within the present bounds."""
        self.lag = min(max(state["lag"], self._minimum), self._maximum)
        self._settled_at = state["settled_at"]
        self._log_ess = list(state["log_ess"])
