"""Episodes of many turns: agents, their environments and tools.

A new agent is one file with a class derived from :class:`Agent`; `--train.agent_func_path FILE.py`
trains with it and `python -m eval run --agent FILE.py` evaluates it.
"""

from vespo_openrlhf.agents.agent import Agent, Message, Observation, Step

__all__ = ["Agent", "Message", "Observation", "Step"]
