"""The scheduling policies: NAME is the class in the file NAME.py here, or one is a user's own.

So a new policy is one file, and no edit elsewhere.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from dataclasses import fields
from functools import cache

from vespo_openrlhf import user_code

from ..lag import LagOptions
from ..options import SchedulerConfig
from ..policy import Policy


def policy_names() -> list[str]:
    """The policies of this folder."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


@cache
def policy_class(name: str) -> type[Policy]:
    """The policy of that name.

    Args:
        name: one of `policy_names()`, or "package.module:Class" or "path/to/file.py:Class".

    Raises:
        ValueError: unknown name, or a user's class that cannot be found or is no `Policy`.
    """
    if ":" in name:
        found = user_code.load(name, "lag.policy")
        if not (inspect.isclass(found) and issubclass(found, Policy)):
            raise ValueError(f"lag.policy {name} is no subclass of scheduling.Policy")
        if missing := sorted(found.__abstractmethods__):
            raise ValueError(f"lag.policy {name} does not define {', '.join(missing)}")
        return found
    if name not in policy_names():
        near = difflib.get_close_matches(name, policy_names(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"unknown lag.policy {name!r}{hint}. Known: {', '.join(policy_names())}; or your own "
            "as package.module:Class or path/to/file.py:Class"
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


def unused_options(lag: LagOptions) -> list[str]:
    """The options that are set, and that the policy does not use."""
    # `policy` names it, and `kv` is the engines'.
    used = policy_class(lag.policy).uses | {"policy", "kv"}
    return [
        option.name
        for option in fields(LagOptions)
        if option.name not in used and getattr(lag, option.name) != option.default
    ]


def make_policy(config: SchedulerConfig) -> Policy:
    """The policy of a run.

    Raises:
        ValueError: no such policy, an option that it does not use, or one that it cannot keep to.
    """
    lag = config.lag
    for option in unused_options(lag):
        raise ValueError(
            f"lag.{option} {getattr(lag, option)} is not used by lag.policy {lag.policy}: leave it "
            "out"
        )
    return policy_class(lag.policy)(config)
