"""Run many cells: one process per core, one thread each, what is finished is skipped."""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from vespo_openrlhf.study.cells import Cell, Recipe
from vespo_openrlhf.study.store import Store
from vespo_openrlhf.workers import end_with_parent

_Task = tuple[Cell | int, Recipe, Path, float]


def run_missing(
    cells: Sequence[Cell],
    store: Store,
    processes: int,
    *,
    title: str,
    progress: bool = True,
    device: str = "cpu",
    until: float = math.inf,
) -> None:
    """Run every cell of which there is no result yet.

    Args:
        cells: in the order of importance: a study that is interrupted has the first of them.
        store: where results are, and go.
        processes: how many cells are run at a time.
        title: of the progress bar, which also has the time left.
        progress: show it, on standard error.
        device: where they are run; on a GPU one at a time is enough.
        until: the time, as of `time.time`, after which none is begun.
    """
    todo = store.missing(cells)
    if not todo:
        return
    # Spawned, not forked: a fork of a process in which torch has run may hang. An executor, not
    # multiprocessing.Pool, which waits for ever for the task of a worker that was killed.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(processes, len(todo)), context, _initialise, (device,))
    try:
        seeds = list(dict.fromkeys(cell.seed for cell in todo))
        # Warm starts first, each by one process, and the runs only once all are there. Where there
        # is not time for all, each is made by the first run that needs it.
        stages: list[tuple[str, Sequence[Cell] | Sequence[int]]] = [(title, todo)]
        if until == math.inf:
            stages.insert(0, (f"{title}: warm starts", seeds))
        for stage, tasks in stages:
            futures = [
                executor.submit(_work, (t, store.recipe, store.folder, until)) for t in tasks
            ]
            for future in _shown(futures, stage, progress):
                future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process of the study was killed, perhaps for want of memory; finished runs are "
            "kept: give the same command again, with fewer --processes if it happens again"
        ) from error
    finally:
        # Where it was interrupted, what runs is stopped: it would be run again anyway.
        workers = list(executor._processes.values()) if executor._processes else []
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()


def _shown(futures: Sequence[Future[None]], title: str, progress: bool) -> Iterable[Future[None]]:
    """The futures as they are done, under a progress bar."""
    done = as_completed(futures)
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # a machine that has torch alone, and a GPU
        return _counted(done, len(futures), title) if progress else done
    bar: Iterable[Future[None]] = tqdm(
        done,
        total=len(futures),
        desc=title,
        unit="run",
        smoothing=0.1,
        disable=not progress,
        # In a log file every refresh is a line of its own.
        mininterval=0.2 if sys.stderr.isatty() else 30.0,
    )
    return bar


def _counted(futures: Iterable[Future[None]], total: int, title: str) -> Iterator[Future[None]]:
    for number, future in enumerate(futures, start=1):
        print(f"{title}: {number} of {total}", file=sys.stderr, flush=True)
        yield future


def _initialise(device: str) -> None:
    end_with_parent()
    import torch

    torch.set_default_device(device)
    if device != "cpu":
        torch.set_float32_matmul_precision("high")

    # One interrupt reaches the whole process group; the parent alone answers, and ends the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Operators this small gain nothing from a second thread, and the cores are taken.
    torch.set_num_threads(1)


def _work(task: _Task) -> None:
    from vespo_openrlhf.study.trainer import run_cell
    from vespo_openrlhf.study.warm_start import warm_start

    cell, recipe, folder, until = task
    if time.time() > until:
        return
    cache = folder / "warm_starts"
    if isinstance(cell, int):
        warm_start(cell, recipe, cache)
        return
    store = Store(folder, recipe)
    if store.missing([cell]):  # or another command has run it meanwhile
        try:
            result = run_cell(cell, recipe, warm_start(cell.seed, recipe, cache))
        except Exception as error:
            raise RuntimeError(
                f"the run of {cell.loss.label} at N = {cell.updates_per_batch}, learning rate "
                f"{cell.learning_rate:g}, seed {cell.seed} failed: {type(error).__name__}: {error}"
            ) from error
        store.save(cell, result)
