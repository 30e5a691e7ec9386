"""Run by test_checkpoints: a run on a small disk, which is full in the middle of a checkpoint.

Prints a line of JSON: the error, and the step that a resume goes on from.
"""

import json
import shutil
import sys
from pathlib import Path

from deepspeed_run import Run

from vespo_openrlhf.bridge.run.checkpoints import CheckpointError

disk = Path(sys.argv[1])
run = Run(disk / "run", max_num=1)
run.train(lambda step: None, until=2)
size = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
# Leave room for about half of a checkpoint.
filler = disk / "filler"
filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - size // 2))
errors = []
try:
    run.train(lambda step: None, until=3)
except CheckpointError as error:
    errors.append(str(error))
filler.unlink()
left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if "_step3" in path.name)
print(json.dumps({"errors": errors, "left": left, "newest": run.state._checkpoints.newest()}))
