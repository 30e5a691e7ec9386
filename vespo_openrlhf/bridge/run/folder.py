"""The run folder as the driver keeps it: one process at a time, and nothing in it ever deleted.

RUN/lock                 held by the process that trains; names it
RUN/config.json          the flags of the newest start; config-1.json those of the first, ...
RUN/versions.json        the packages of the newest start
RUN/finished.json        the last start trained to the end of its data
RUN/superseded/1/        records that a resume went back behind, by the resume
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf.files import write_text
from vespo_openrlhf.recorded.reading import FOLDER as RECORDED
from vespo_openrlhf.recorded.reading import STAMPS_FILE
from vespo_openrlhf.redact import redact

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
UPDATES_FILE = "updates.jsonl"
PROMPTS_FILE = "prompts.json"
EVALUATIONS = "eval"
_VERSIONS_FILE = "versions.json"
_FINISHED_FILE = "finished.json"
_LOCK_FILE = "lock"
#: What a run that starts from the beginning moves out of its way.
_RECORDS = (
    *(METRICS_FILE, UPDATES_FILE, STAMPS_FILE, PROMPTS_FILE, RECORDED),
    *(EVALUATIONS, "model", _FINISHED_FILE),
)


class RunFolder:
    """`--run.dir`.

    Args:
        path: the folder; need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def holds_records(self) -> bool:
        """Whether a run has trained here."""
        return (self.path / METRICS_FILE).exists()

    @property
    def holder(self) -> str | None:
        """Who trains in it now, if anybody does."""
        with contextlib.suppress(OSError), open(self.path / _LOCK_FILE, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "a process"
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with it, however it ends.

        Network file systems keep it among nodes too, as far as they have locks; where one has
        none, a line says so.

        Raises:
            ValueError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Not inherited by what this process starts, which may outlive it.
        with open(self.path / _LOCK_FILE, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"--run.dir {self.path} is in use by {file.read().strip() or 'a process'}: "
                    "wait for it, end it, or choose another folder"
                ) from None
            except OSError as error:
                print(
                    f"[vespo] WARNING: {self.path} cannot be locked ({error.strerror}): see to it "
                    "that no other run writes to it",
                    flush=True,
                )
            file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
            file.flush()
            yield

    def begin(self, flags: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """Write down a start, beside those before it. The folder is no longer a finished run's."""
        config = self.path / CONFIG_FILE
        if config.exists():
            write_text(self._numbered("config-{}.json"), config.read_text("utf-8"))
        for path, content in ((config, redact(flags)), (self.path / _VERSIONS_FILE, versions)):
            text = json.dumps(content, indent=2, sort_keys=True, default=str)
            write_text(path, text + "\n")
        (self.path / _FINISHED_FILE).unlink(missing_ok=True)

    def last_flags(self) -> dict[str, Any]:
        """Of the start before; none where there was none."""
        return _read(self.path / CONFIG_FILE)

    def finish(self, episodes: int) -> None:
        """Mark the run as trained to the end of its data, so many times over."""
        content = {"train.num_episodes": episodes, "time": round(time.time(), 3)}
        write_text(self.path / _FINISHED_FILE, json.dumps(content) + "\n")

    def finished_episodes(self) -> int:
        """Passes over the data of a finished run; 0 of one that is not."""
        return int(_read(self.path / _FINISHED_FILE).get("train.num_episodes", 0))

    def resume_at(self, step: int, update: int) -> None:
        """Move what was recorded after the checkpoint that is now loaded to `superseded`.

        Args:
            step: rollout batches trained at the checkpoint; 0: the run starts from the beginning.
            update: the version of the policy then.
        """
        aside, records = self._numbered("superseded/{}"), self.holds_records
        if not step:
            # A run that was killed in its first batch has written samples and updates alone.
            for name in _RECORDS if records else (UPDATES_FILE, STAMPS_FILE, RECORDED):
                if (self.path / name).exists():
                    aside.mkdir(parents=True, exist_ok=True)
                    (self.path / name).rename(aside / name)
            return
        split_lines(self.path / METRICS_FILE, aside, lambda line: line.get("step", 0) <= step)
        for name in (UPDATES_FILE, STAMPS_FILE):
            split_lines(self.path / name, aside, lambda line: line.get("update", 0) < update)
        for folder in (self.path / EVALUATIONS).glob("step_*"):
            self._move_after(step, folder, folder.name.removeprefix("step_"), aside)
        for shard in (self.path / RECORDED).glob("*.parquet"):
            self._move_after(step, shard, shard.name.partition("-")[0], aside)

    def _move_after(self, step: int, path: Path, number: str, aside: Path) -> None:
        """Where `number` is that of a later rollout batch."""
        if number.isdecimal() and int(number) > step:
            there = aside / path.relative_to(self.path)
            there.parent.mkdir(parents=True, exist_ok=True)
            path.rename(there)

    def _numbered(self, pattern: str) -> Path:
        """The first of `pattern` with 1, 2, ... in it that is not there."""
        number = 1
        while (path := self.path / pattern.format(number)).exists():
            number += 1
        return path


def split_lines(path: Path, aside: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Move the records of a JSON-lines file that are not to be kept, and what a kill tore, to the
    file of the same name in the folder `aside`, which is made where it is needed."""
    if not path.exists():
        return
    kept: list[str] = []
    moved: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            stays = keep(json.loads(line))
        except (ValueError, AttributeError, TypeError):
            stays = False
        (kept if stays else moved).append(f"{line}\n")
    if moved:
        # There before it is gone here.
        write_text(aside / path.name, "".join(moved))
        write_text(path, "".join(kept))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
