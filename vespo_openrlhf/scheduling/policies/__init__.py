"""The scheduling policies: NAME is the one class of the file NAME.py, or a user's own.

So a new policy is one file, and no edit elsewhere.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING

from vespo_openrlhf import user_code

from ..lag import LagOptions
from ..policy import Policy

if TYPE_CHECKING:
    from ..config import SchedulerConfig

POLICY_NAMES = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))


@cache
def policy_class(name: str) -> type[Policy]:
    """The policy of that name.

    Args:
        name: one of POLICY_NAMES, or "package.module:Class" or "path/to/file.py:Class".

    Raises:
        ValueError: unknown name, or a user's class that cannot be found or is no `Policy`.
    """
    if ":" in name:
        found = user_code.load(name, "a scheduling policy")
        if not (inspect.isclass(found) and issubclass(found, Policy)):
            raise ValueError(f"lag.policy {name} is no subclass of scheduling.Policy")
        if missing := sorted(found.__abstractmethods__):
            raise ValueError(f"lag.policy {name} does not define {', '.join(missing)}")
        return found
    if name not in POLICY_NAMES:
        near = difflib.get_close_matches(name, POLICY_NAMES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"unknown lag.policy {name!r}{hint}. Known: {', '.join(POLICY_NAMES)}; or your own as "
            "package.module:Class or path/to/file.py:Class"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    (own,) = (
        found
        for found in vars(module).values()
        if inspect.isclass(found)
        and issubclass(found, Policy)
        and found.__module__ == module.__name__
    )
    return own


def make_policy(config: SchedulerConfig) -> Policy:
    """The policy of a run.

    Raises:
        ValueError: no such policy, an option that it does not use, or one that it cannot keep to.
    """
    lag = config.lag
    policy = policy_class(lag.policy)
    for option in fields(LagOptions):
        value = getattr(lag, option.name)
        # `policy` names it, and `kv` is the engines'.
        if option.name not in policy.uses | {"policy", "kv"} and value != option.default:
            raise ValueError(
                f"lag.{option.name} {value} is not used by lag.policy {lag.policy}: leave it out"
            )
    return policy(config)
