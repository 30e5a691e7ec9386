"""The agent that the command line names."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from vespo_openrlhf import user_code
from vespo_openrlhf.agents.agent import Agent
from vespo_openrlhf.agents.episode import check_limits

_BASE = "vespo_openrlhf.agents.Agent"
_EXECUTOR = "AgentExecutor"


def load_agent(path: str) -> type[Agent]:
    """The agent of a Python file.

    Args:
        path: the file, with one class derived from `Agent` defined in it; or `FILE.py:NAME` or
            `package.module:NAME`, which may also have been imported there.

    Raises:
        ValueError: there is no such file or name, it does not import, it defines no agent or
            several, or the agent is abstract, needs arguments or has limits that are none.
    """
    what = "the agent"
    if not path.endswith(".py"):
        agent = user_code.load(path, what)
    else:
        module = user_code.load_file(path, what)
        agents = [
            v for v in {id(v): v for v in vars(module).values()}.values() if _defined(v, module)
        ]
        if not agents:
            raise ValueError(f"{what} {path}: it defines no class that is derived from {_BASE}")
        if len(agents) > 1:
            names = sorted(agent.__name__ for agent in agents)
            raise ValueError(
                f"{what} {path}: it defines several, {', '.join(names)}: name one, as in "
                f"{path}:{names[0]}"
            )
        agent = agents[0]
    if not isinstance(agent, type) or not issubclass(agent, Agent):
        raise ValueError(f"{what} {path}: it is no class that is derived from {_BASE}")
    if missing := ", ".join(sorted(agent.__abstractmethods__)):
        raise ValueError(f"{what} {path}: {agent.__name__} has no {missing}; define it")
    try:
        inspect.signature(agent).bind()
    except TypeError as error:
        raise ValueError(
            f"{what} {path}: {agent.__name__} is made without arguments for every sample, and "
            f"needs some ({error}): give each a default, or make it an attribute of the class"
        ) from error
    check_limits(agent)
    return agent


def _defined(value: Any, module: ModuleType) -> bool:
    """Whether it is an agent of this module: neither imported, nor a base of others."""
    return (
        isinstance(value, type)
        and issubclass(value, Agent)
        and value.__module__ == module.__name__
        and not any(base.__module__ == module.__name__ for base in value.__subclasses__())
    )


def defines_executor(path: str) -> bool:
    """Whether a Python file is an agent file of OpenRLHF's own, with an `AgentExecutor` at its top.
    Told without running it: it may start servers.

    Raises:
        ValueError: there is no such file, or it is no Python.
    """
    if not path.endswith(".py"):
        return False
    try:
        top = ast.parse(Path(path).read_text(encoding="utf-8")).body
    except OSError as error:
        raise ValueError(f"{path}: there is no such file") from error
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no Python: {error}") from error
    return any(_EXECUTOR in _names(statement) for statement in top)


def _names(statement: ast.stmt) -> set[str]:
    """What a statement gives a name to."""
    match statement:
        case ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name for alias in names}
    return set()
