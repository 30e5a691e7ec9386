"""The trainer's step with VESPO against stock OpenRLHF with its correction on, in one run.

    .venv/bin/python scripts/bench_step.py [--json]

Trains the embedded model twice with the same data: with OpenRLHF's own trainer, engines, PPO and
token-level correction, and with VESPO under our scheduler, which reads no recomputed log-probs and
so spares a forward pass. Both synchronously: asynchronously the engines generate meanwhile on the
same cores, and the better a trainer keeps them busy, the slower its own step looks.

Prints the median seconds of making experience and of training, their ratios, and that of the sums.
Nearly all of training is the model's own forward and backward pass, the same for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vespo_openrlhf.peers.stacks import STOCK_FLAGS
from vespo_openrlhf.quickstart.pipeline import Plan, training_flags

STAGES = ("make_experience", "ppo_train")
ASYNCHRONOUS = ("--train.async_enable", "--train.partial_rollout_enable")
WARM_UP_BATCHES = 2
BATCHES = 12
COMMANDS = {
    "stock": ["-m", "vespo_openrlhf.peers.stock", *STOCK_FLAGS],
    "vespo": ["-m", "vespo_openrlhf.train"],
}


def measure(plan: Plan, command: list[str]) -> dict[str, float]:
    """Median seconds of each stage of a run, its first batches left out."""
    flags = [flag for flag in training_flags(plan) if flag not in ASYNCHRONOUS]
    # The last of a repeated flag counts, so those of the command come after the plan's.
    program, extra = command[:2], command[2:]
    log = plan.out / "log"
    with open(log, "wb") as output:
        arguments = [sys.executable, *program, *flags, *extra]
        done = subprocess.run(arguments, stdout=output, stderr=output)
    if done.returncode:
        sys.exit(f"the run has failed; its last lines:\n{log.read_text()[-2000:]}")
    (events,) = (plan.run_dir / "tensorboard").rglob("events*")
    scalars = EventAccumulator(str(events)).Reload().Scalars
    return {
        stage: statistics.median(
            event.value for event in scalars(f"train/timing/{stage}")[WARM_UP_BATCHES:]
        )
        for stage in STAGES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        build = ["-m", "vespo_openrlhf.embedded", "--out", str(out / "embedded"), "--quiet"]
        subprocess.run([sys.executable, *build], stdout=subprocess.DEVNULL, check=True)
        results = {}
        for name, command in COMMANDS.items():
            (out / name).mkdir()
            (out / name / "embedded").symlink_to(out / "embedded")
            results[name] = measure(Plan(out / name, batches=BATCHES), command)
    ours, stock = results["vespo"], results["stock"]
    ratios = {stage: ours[stage] / stock[stage] for stage in STAGES}
    ratio = sum(ours.values()) / sum(stock.values())
    if as_json:
        print(json.dumps({**results, "ratios": ratios, "ratio": ratio}))
        return
    for name, stages in results.items():
        print(f"{name:>6}: " + ", ".join(f"{stage} {s:.2f} s" for stage, s in stages.items()))
    print("ratios: " + ", ".join(f"{stage} {r:.2f}" for stage, r in ratios.items()))
    print(f" whole: {ratio:.2f}")


if __name__ == "__main__":
    main()
