"""What a run says of its agents' episodes, whatever the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vespo_openrlhf.options import Options, option


@dataclass(frozen=True)
class AgentOptions(Options):
    """Credit and limits of episodes of many turns."""

    weight: Literal["episode", "turn"] = option(
        "episode",
        "what the importance weight is the product over: all tokens of an episode (episode), or "
        "those of one turn, each turn being a sequence of its own for the loss, with an advantage "
        "of its own where the agent tells each turn's reward (turn)",
    )
    max_turns: int | None = option(
        None,
        "turns after which an episode is given up, by whatever agent: its sample is left out of "
        "its group and counted; an agent's own limit ends it in the ordinary way",
        at_least=1,
    )
    tool_timeout: float = option(
        120.0,
        "seconds an environment may take for one answer; more, and its sample is given up",
        above=0,
    )
