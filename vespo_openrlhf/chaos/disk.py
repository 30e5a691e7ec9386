"""A small disk of the run's own, to be filled."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path


class SmallDisk:
    """A tmpfs at `folder`; `mounted` is False where this process may not mount one.

    Args:
        folder: made here; one that a killed run left mounted is unmounted first.
        megabytes: its size.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.ismount(folder):
            self._umount()
        size = f"size={megabytes}m"
        command = ["mount", "-t", "tmpfs", "-o", size, "vespo-chaos", str(folder)]
        self.mounted = False
        with contextlib.suppress(OSError):
            self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Leave no byte free; what is freed later stays free."""
        with open(self._ballast, "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Take away what `fill` put there."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount; what was on it is gone."""
        if self.mounted:
            self._umount()
            self.mounted = False

    def _umount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=False)
