"""Run by test_checkpoints: a run that is killed at random moments and goes on after each.

Every life is a fork of this process, which has imported all there is. In turn they are killed
while they start and resume, in their first step, and in later ones. Prints a line of JSON.
"""

import io
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from deepspeed_run import Run, build_shm_op

folder, lives = Path(sys.argv[1]), int(sys.argv[2])
random.seed(7)
torch.set_num_threads(1)


def warm_up() -> None:
    """Load here, once for all lives, what torch and DeepSpeed load at the first use."""
    build_shm_op()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)  # autograd itself must not run before a fork
    torch.optim.AdamW([parameter]).step()
    file = io.BytesIO()
    torch.save({"parameter": parameter}, file)
    file.seek(0)
    torch.load(file, weights_only=False)


def live(life: int, tell: int) -> None:
    """Resume, and train until the end comes; tells the parent of every step."""

    def say(what: str, step: int) -> None:
        os.write(tell, f"{what} {step}\n".encode())

    store = f"file://{folder / f'store-{life}'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    run = Run(folder / "run")
    say("resumed", run.step)
    run.train(lambda step: say("saved", step))


warm_up()
began = time.monotonic()
saved, startup, first, step = 0, 0.0, 0.0, 0.0  # the last step, and the seconds that things take
killed = {"resuming": 0, "first": 0, "later": 0}
for life in range(-1, lives + 1):  # one to measure, and one to see what the last kill has left
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            live(life, write)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(write)
    told = os.fdopen(read)
    started = time.monotonic()
    lines: list[list[str]] = []

    def hear() -> float:
        """Wait for the next line; seconds since the life began."""
        line = told.readline().split()  # noqa: B023
        assert line, f"life {life} ended by itself after step {saved}"  # noqa: B023
        lines.append(line)  # noqa: B023
        return time.monotonic() - started  # noqa: B023

    if life < 0:
        startup = hear()
        first = hear() - startup
        step = (hear() + hear() + hear() - 3 * (startup + first)) / 6
    elif life == lives:
        hear()
    elif life % 5 == 0:
        time.sleep(random.uniform(0, startup))
    elif life % 5 == 1:
        hear()
        time.sleep(random.uniform(0, first))
    else:
        hear()
        hear()
        time.sleep(random.uniform(0, 2 * step))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"life {life} ended by itself"
    lines += [line.split() for line in told.read().splitlines()]
    for word, number in lines:
        # What was saved is never lost; what was killed in saving may have been complete.
        assert saved <= int(number) <= saved + 1, f"{word} {number} after {saved}"
        saved = int(number)
    if 0 <= life < lives:
        killed[("resuming", "first", "later")[min(len(lines), 2)]] += 1
print(json.dumps({"saved": saved, "seconds": round(time.monotonic() - began, 1), **killed}))
print("seconds:", startup, first, step, file=sys.stderr)
