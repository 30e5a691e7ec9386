import csv
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.study.cells import Cell

COLUMNS = (
    *("task", "loss", "options", "N", "lag", "learning_rate", "mu_noise", "engine_noise"),
    *("sampler", "seed", "start", "best", "final", "collapsed"),
)


def write_runs(path: Path, task: str, finals: Iterable[tuple[Cell, float]]) -> None:
    """A runs.csv as a study writes it, as far as it is read back; below 5 % a run has collapsed."""
    path.parent.mkdir(parents=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for cell, final in finals:
            loss = (cell.loss.label, json.dumps(dict(cell.loss.options)))
            ends = (0.1, final + 0.01, final, final < 0.05)
            writer.writerow([task, *loss, *cell.condition(), cell.seed, *ends])


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """As the study's own processes: a second thread waits more than it works, and on a busy
    machine many times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
