"""Run by test_checkpoints: what a resume takes of a checkpoint, whatever keeps the state.

Prints a line of JSON for each way to keep it: the learning rates over the updates of a run that is
resumed with another rate, and those they should be.
"""

import json
import sys
from pathlib import Path

from deepspeed_run import build_engine, update

from vespo_openrlhf.bridge.rank import checkpoint

folder = Path(sys.argv[1])
for setup in sys.argv[2:]:
    stage, dtype = setup.split("-")
    engine = build_engine(int(stage), dtype, lr=1e-2)
    for _ in range(3):
        update(engine)
    checkpoint.save(engine, str(folder / setup), "global_step3", client_state={"step": 3})
    resumed = build_engine(int(stage), dtype, lr=4e-2)
    _, states = checkpoint.load(resumed, str(folder / setup), "global_step3")
    rates = []
    for _ in range(2):
        rates.append(resumed.optimizer.param_groups[0]["lr"])
        assert resumed.lr_scheduler.get_last_lr() == rates[-1:]
        update(resumed)
    expected = [4e-2 * (1 - step / 100) for step in (3, 4)]
    latest = (folder / setup / "latest").exists()
    print(json.dumps({"setup": setup, "rates": rates, "expected": expected, "latest": latest,
                      "step": states["step"], "updates": resumed.global_steps}))  # fmt: skip
