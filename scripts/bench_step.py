"""The trainer's step with VESPO against stock OpenRLHF with its correction on, in one run.

    .venv/bin/python scripts/bench_step.py [--json]

Trains the embedded model twice, asynchronously, with the same data: with OpenRLHF's own PPO and
token-level correction, and with VESPO, which reads no recomputed log-probs and so spares a forward
pass. Prints the median seconds of making experience and of training, and the ratio of their sums.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from vespo_openrlhf.quickstart.pipeline import Plan, training_flags

STAGES = ("make_experience", "ppo_train")
WARM_UP_BATCHES = 2
BATCHES = 12
STOCK = ("--actor.policy_loss_type", "ppo", "--vespo.anchor", "old")
CORRECTION = ("--algo.advantage.is_correction_level", "token")


def measure(plan: Plan, *flags: str) -> dict[str, float]:
    """Median seconds of each stage of a run, its first batches left out."""
    with open(plan.out / "log", "wb") as log:
        subprocess.run(
            [sys.executable, "-m", "vespo_openrlhf.train", *training_flags(plan), *flags],
            stdout=log,
            stderr=log,
            check=True,
        )
    lines = (plan.run_dir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines][WARM_UP_BATCHES:]
    return {s: statistics.median(step[f"timing/{s}"] for step in steps) for s in STAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        build = ["-m", "vespo_openrlhf.embedded", "--out", str(out / "embedded"), "--quiet"]
        subprocess.run([sys.executable, *build], stdout=subprocess.DEVNULL, check=True)
        results = {}
        for name, flags in {"stock": (*STOCK, *CORRECTION), "vespo": ()}.items():
            (out / name).mkdir()
            (out / name / "embedded").symlink_to(out / "embedded")
            results[name] = measure(Plan(out / name, batches=BATCHES), *flags)
    ratio = sum(results["vespo"].values()) / sum(results["stock"].values())
    if as_json:
        print(json.dumps({**results, "ratio": ratio}))
        return
    for name, stages in results.items():
        print(f"{name:>6}: " + ", ".join(f"{stage} {s:.2f} s" for stage, s in stages.items()))
    print(f" ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
