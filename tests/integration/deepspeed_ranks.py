"""Run by conftest: DeepSpeed's ranks, forked from one process that has imported what they need.

Reads a line of JSON for each script, and answers it with the exit codes of its ranks.
"""

import json
import os
import runpy
import sys
import traceback
from typing import Any

import deepspeed_run  # noqa: F401  (DeepSpeed, OpenRLHF and our actors)
import peft  # noqa: F401


def become(rank: int, task: dict[str, Any]) -> None:
    """Do in this process what the script says, as that rank."""
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(f"{task['logs']}/{rank}.{name}", os.O_CREAT | os.O_WRONLY), number)
    os.environ.update(task["environment"] | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    sys.argv = [task["script"], *task["arguments"]]
    runpy.run_path(task["script"], run_name="__main__")


for line in sys.stdin:
    task = json.loads(line)
    ranks = []
    for rank in range(task["ranks"]):
        process = os.fork()
        if not process:
            status = 1
            try:
                become(rank, task)
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        ranks.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in ranks]
    print("ENDED", json.dumps(codes), flush=True)
