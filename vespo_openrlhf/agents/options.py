"""Options of agents."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import Options, option


@dataclass(frozen=True)
class AgentOptions(Options):
    max_turns: int | None = option(None, "x", at_least=1)
    tool_timeout: float = option(120.0, "x", above=0)
