"""`python -m vespo_openrlhf.peers.stock FLAGS`: OpenRLHF's own trainer, engines and losses.

Our command line with nothing of ours in place but how Ray starts, without which OpenRLHF does not
run on a CPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from vespo_openrlhf.bridge import cli, plug
from vespo_openrlhf.replaced import replaced


@contextlib.contextmanager
def _in_place() -> Iterator[plug.Plugs]:
    with plug.ray_in_place() as start_ray:
        yield plug.Plugs(start_ray, plug.Engines(None), plug.Trainers())


if __name__ == "__main__":
    with replaced(plug, in_place=_in_place):
        sys.exit(cli.main())
