"""What it is worth that a sample's slot is free while its environment works, in one run.

    .venv/bin/python scripts/bench_agents.py [--seconds 1.0] [--slots 64] [--batches 8] [--json]

Trains the embedded model on the real stack with an agent of two turns, whose environment sleeps
after each: once as the scheduler does it, and once with the slots held all the time, as a scheduler
must that hears of an episode only when it ends.

Prints for both how many requests were on the engine, as a share of its slots and seen from within
it, and the batches a minute; and their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vespo_openrlhf.agents import Agent, Step
from vespo_openrlhf.bridge import engine, events
from vespo_openrlhf.bridge.agents import EpisodeExecutor
from vespo_openrlhf.quickstart.pipeline import Plan, training_flags

# How the engine's process is told; it inherits this one's variables.
SECONDS, HELD, OUT = "BENCH_AGENTS_SECONDS", "BENCH_AGENTS_HELD", "BENCH_AGENTS_OUT"
LOOK_SECONDS = 0.02
WARM_UP_BATCHES = 2


class Sleeper(Agent):
    """Two turns; its environment only takes time. Any answer that holds the label is right."""

    max_turns = 2

    def __init__(self) -> None:
        self.label = ""

    def reset(self, prompt: str, label: str) -> str:
        self.label = label
        return prompt

    async def step(self, action: str) -> Step:
        await asyncio.sleep(float(os.environ[SECONDS]))
        again = [{"role": "user", "content": "Again."}]
        return Step(again, reward=float(self.label in action))


class AgentExecutor(EpisodeExecutor):
    """Plays it, and writes down how many requests are on the engine, from the first to the last."""

    def __init__(self) -> None:
        super().__init__(Sleeper)
        self._watching: asyncio.Task[None] | None = None
        if HELD in os.environ:
            engine.told_at_once = lambda told: [
                event for event in told if not isinstance(event, events.Away | events.Back)
            ]

    async def execute(self, *args: Any, llm_engine: Any, **kwargs: Any) -> dict[str, Any]:
        """See `EpisodeExecutor`."""
        self._watching = self._watching or asyncio.create_task(_watch(llm_engine))
        return await super().execute(*args, llm_engine=llm_engine, **kwargs)


async def _watch(llm_engine: Any) -> None:
    with open(os.environ[OUT], "w", buffering=1) as file:
        while True:
            file.write(f"{llm_engine._generating}\n")
            await asyncio.sleep(LOOK_SECONDS)


def measure(plan: Plan, slots: int, environment: dict[str, str]) -> dict[str, float]:
    """Share of the slots with a request on the engine, and batches a minute."""
    flags = training_flags(plan)
    place = flags.index("--reward.remote_url")
    flags[place : place + 2] = ["--train.agent_func_path", __file__]
    flags += ["--rollout.in_flight_per_engine", str(slots), "--data.max_len", "160"]
    log, seen = plan.out / "log", plan.out / "seen"
    with open(log, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "vespo_openrlhf.train", *flags],
            env={**os.environ, **environment, OUT: str(seen)},
            stdout=output,
            stderr=output,
        )
    if done.returncode:
        sys.exit(f"the run has failed; its last lines:\n{log.read_text()[-2000:]}")
    lines = map(json.loads, (plan.run_dir / "metrics.jsonl").read_text().splitlines())
    times = [line["time"] for line in lines if line["kind"] == "train"][WARM_UP_BATCHES - 1 :]
    counts = [int(line) for line in seen.read_text().split()]
    # From the first request to the last; after that the trainer is alone.
    last = max(place for place, count in enumerate(counts) if count)
    return {
        "occupancy": sum(counts[:last]) / last / slots,
        "batches_per_minute": 60 * (len(times) - 1) / (times[-1] - times[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="that its environment sleeps")
    parser.add_argument("--slots", type=int, default=64, help="sequences in flight on the engine")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        build = ["-m", "vespo_openrlhf.embedded", "--out", str(out / "embedded"), "--quiet"]
        subprocess.run([sys.executable, *build], stdout=subprocess.DEVNULL, check=True)
        results = {}
        for name, held in (("held", {HELD: "1"}), ("freed", {})):
            (out / name).mkdir()
            (out / name / "embedded").symlink_to(out / "embedded")
            plan = Plan(out / name, batches=options.batches)
            environment = {SECONDS: str(options.seconds), **held}
            results[name] = measure(plan, options.slots, environment)
    ratios = {name: value / results["held"][name] for name, value in results["freed"].items()}
    if options.json:
        print(json.dumps({**results, "ratios": ratios}))
        return
    for name, figures in {**results, "ratio": ratios}.items():
        print(f"{name:>6}: " + ", ".join(f"{what} {f:.2f}" for what, f in figures.items()))


if __name__ == "__main__":
    main()
