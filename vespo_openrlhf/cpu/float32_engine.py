"""The rollout engine in float32, as the trainer is: then log W holds lag and nothing else."""

from __future__ import annotations

import functools
from typing import Any


def float32_engine(actor_class: Any) -> Any:
    """OpenRLHF's rollout actor (a Ray actor class) with its element type set to float32."""
    import ray

    base = actor_class.__ray_metadata__.modified_class

    class RolloutRayActor(base):  # type: ignore[misc,valid-type]
        # Asynchronous, as upstream's is: Ray awaits it. Wrapped, so that our seams find upstream's.
        @functools.wraps(base.__init__)  # type: ignore[misc]
        async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]
            kwargs["dtype"] = "float32"
            await super().__init__(*args, **kwargs)

    return ray.remote(RolloutRayActor)
