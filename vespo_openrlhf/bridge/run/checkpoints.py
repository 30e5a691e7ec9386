"""Which checkpoints of a run are whole, which one a resume takes, and which may be deleted.

    CKPT/_actor/global_step8/            DeepSpeed's files, from every rank
    CKPT/_critic/global_step8/           the same, where there is a critic
    CKPT/rollouts/global_step8.pt        finished groups that were not trained yet
    CKPT/complete/global_step8.json      written when all of that is there: the files, their sizes

A checkpoint is saved before any other is deleted, and never trusted before it is complete: a kill
or a full disk in the middle leaves the one before. Run by one process at a time: the driver before
the run, its trainer in it, both on a node that sees CKPT.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vespo_openrlhf.files import write_text

PARTS = ("_actor", "_critic")
_COMPLETE = "complete"
_GIB = 1024**3


class CheckpointError(RuntimeError):
    """A checkpoint could not be saved; those before it are as they were."""


class Checkpoints:
    """OpenRLHF's checkpoint folder.

    Args:
        folder: `--ckpt.path`; need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # -- at the start of a run

    def newest(self) -> str | None:
        """The tag of the newest whole checkpoint; None where there is none yet.

        Raises:
            ValueError: there were some, and every one is damaged.
        """
        faults: list[str] = []
        for tag in reversed(self._tags()):
            fault = self._fault(tag)
            if fault is None:
                for line in faults:
                    print(f"[vespo] WARNING: {line}: passed over", flush=True)
                return tag
            faults.append(f"checkpoint {tag} in {self._folder} is {fault}")
        # An unfinished one is the first of a run that was killed while writing it.
        if len(faults) > 1 or any("damaged" in fault for fault in faults):
            raise ValueError(
                f"no checkpoint is whole: {'; '.join(faults)}. Bring the files back, or move "
                f"{self._folder} away to start from the beginning"
            )
        return None

    def clear_after(self, tag: str | None) -> list[str]:
        """Make `tag` the newest: what a kill left unfinished is deleted, and what was whole once
        is renamed to `.damaged`. Returns a line about each."""
        done = []
        for other in reversed(self._tags()):
            if tag is not None and step_of(other) <= step_of(tag):
                break
            if self._record(other).exists():
                for part in self._parts(other):
                    part.replace(_free(part.with_name(f"{other}.damaged")))
                self._record(other).unlink()
                done.append(f"renamed checkpoint {other} to {other}.damaged")
            else:
                self.discard(other)
                done.append(f"deleted checkpoint {other}, which was never finished")
        if tag is not None:
            self._point_at(tag)
        return done

    # -- in a run

    @contextlib.contextmanager
    def saving(self, tag: str) -> Iterator[None]:
        """The checkpoint is saved in here, by every rank of every part, or not at all.

        Raises:
            CheckpointError: saving failed; what there was of it is deleted.
        """
        self._record(tag).unlink(missing_ok=True)
        try:
            yield
            self._complete(tag)
        except Exception as error:
            self.discard(tag)
            raise CheckpointError(
                f"checkpoint {tag} was not saved: {_first_line(error)}. {self._disk()}; what was "
                "written of it is deleted, and older checkpoints are as they were. Make room, and "
                "start the same command again with --ckpt.load_enable"
            ) from error

    def rotate(self, max_num: int, max_gib: float) -> None:
        """Delete the oldest checkpoints beyond `max_num`, or while all of them, the best one too,
        hold more than `max_gib`; never the newest, which is the one to go on from."""
        *old, newest = self._tags() or [""]
        while old and (len(old) >= max(1, max_num) or self._size() > max_gib * _GIB):
            self.discard(old.pop(0))
        kept = {*old, newest}
        for path in self._rollouts().glob("*"):
            if path.suffix != ".pt" or path.stem not in kept:  # a draft that a kill left, too
                path.unlink()
        for trash in self._folder.glob("_*/.deleted-*"):
            shutil.rmtree(trash, ignore_errors=True)

    def keep_best(self, tag: str) -> None:
        """Delete the checkpoints of earlier best evaluations, and the models that --ckpt.save_hf
        wrote of them, now that `tag` is complete."""
        if not self._record(tag).exists():
            return
        for path in self._folder.glob(f"{PARTS[0]}/best*"):
            if path.name != tag:
                self.discard(path.name)
        for path in self._folder.glob("best_global_step*_hf"):  # and no model of the user's
            if path.name != f"{tag}_hf":
                shutil.rmtree(path)

    def discard(self, tag: str) -> None:
        """Delete what there is of a checkpoint; a kill in between leaves no half of it."""
        self._record(tag).unlink(missing_ok=True)
        for part in self._parts(tag):
            trash = _free(part.with_name(f".deleted-{tag}"))
            part.replace(trash)
            shutil.rmtree(trash, ignore_errors=True)
        for path in self._rollouts().glob(f"{tag}.*"):
            path.unlink()

    def _complete(self, tag: str) -> None:
        parts = self._parts(tag)
        if not parts:  # --ckpt.disable_ds, or no better evaluation
            return
        files = [path for part in parts for path in part.rglob("*") if path.is_file()]
        sizes = {str(path.relative_to(self._folder)): path.stat().st_size for path in files}
        content = json.dumps({"time": round(time.time(), 3), "files": sizes}, indent=1)
        write_text(self._record(tag), content + "\n")
        if not tag.startswith("best"):
            self._point_at(tag)

    def _point_at(self, tag: str) -> None:
        """DeepSpeed's own pointer, for its tools."""
        for part in self._parts(tag):
            write_text(part.with_name("latest"), tag)

    def _fault(self, tag: str) -> str | None:
        """What is wrong with a checkpoint, if anything is."""
        try:
            files = json.loads(self._record(tag).read_text(encoding="utf-8"))["files"]
        except FileNotFoundError:
            return self._fault_without_record(tag)
        except (OSError, ValueError, KeyError):
            return f"damaged ({self._record(tag)} cannot be read)"
        for name, size in files.items():
            path = self._folder / name
            # Larger is no fault: the node that wrote the record may have seen less.
            if not path.is_file() or path.stat().st_size < size:
                return f"damaged ({name} is {'shorter' if path.is_file() else 'gone'})"
        return None

    def _fault_without_record(self, tag: str) -> str | None:
        """Of a version that kept none: DeepSpeed named a checkpoint as the latest once it was
        saved, so whatever is not newer than that was whole."""
        for name in PARTS:
            part = self._folder / name
            if not part.is_dir():
                continue
            latest = part / "latest"
            named = latest.read_text().strip() if latest.is_file() else None
            if named == "":
                return f"damaged ({name}/latest is empty: write the newest whole tag into it)"
            if named is None or not (part / tag).is_dir() or step_of(named) < step_of(tag):
                return "not finished"
        return None

    def _tags(self) -> list[str]:
        """Of checkpoints to go on from, whole or not, the oldest first."""
        names = {path.name for part in PARTS for path in self._folder.glob(f"{part}/global_step*")}
        return sorted((name for name in names if step_of(name) >= 0), key=step_of)

    def _parts(self, tag: str) -> list[Path]:
        return [path for part in PARTS if (path := self._folder / part / tag).is_dir()]

    def _record(self, tag: str) -> Path:
        return self._folder / _COMPLETE / f"{tag}.json"

    def _rollouts(self) -> Path:
        return self._folder / "rollouts"

    def _size(self) -> int:
        paths = [path for part in PARTS for path in self._folder.glob(f"{part}/*/**/*")]
        return sum(path.stat().st_size for path in paths if path.is_file())

    def _disk(self) -> str:
        """Where the folder lies and how full that is."""
        folder = self._folder.absolute()
        while not folder.exists():
            folder = folder.parent
        mount = folder
        while not os.path.ismount(mount):
            mount = mount.parent
        usage = shutil.disk_usage(folder)
        return (
            f"{self._folder} is on the disk mounted at {mount}, with {usage.free / _GIB:.2f} of "
            f"{usage.total / _GIB:.2f} GiB free"
        )


def step_of(tag: str) -> int:
    """The step of `global_step16`; -1 of any other name."""
    match = re.fullmatch(r"global_step(\d+)", tag)
    return int(match[1]) if match else -1


def _free(path: Path) -> Path:
    """`path`, or with a number at its end where that is taken."""
    count = 1
    candidate = path
    while candidate.exists():
        count += 1
        candidate = path.with_name(f"{path.name}-{count}")
    return candidate


def _first_line(error: Exception) -> str:
    """What went wrong; Ray puts the trace before it, and the error itself last."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
