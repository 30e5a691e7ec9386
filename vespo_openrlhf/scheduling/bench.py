"""What the scheduler costs per sample, from 100 to 100,000 samples in flight.

    python -m vespo_openrlhf.scheduling.bench [--json] [--samples 200000]

Engines and trainer do nothing here but remember what they were asked, so the time is the
scheduler's own, plus the little that the driving loop takes. Samples end in random order, with
every hundredth group held back for long, so that the trainer also waits and groups overtake.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections import deque
from collections.abc import Sequence

from .lag import LagOptions
from .ledger import PromptLedger
from .options import SchedulerConfig
from .protocols import Request, TrainStep
from .scheduler import Scheduler

IN_FLIGHT = (100, 1_000, 10_000, 100_000)
# The published set-up: 1,024 prompts x 8 per rollout batch, 4 updates, 256 sequences per engine.
PROMPTS_PER_BATCH = 1024
SAMPLES_PER_PROMPT = 8
UPDATES_PER_BATCH = 4
PER_ENGINE = 256


class Desk:
    """Engines and trainer in one: what was asked of them lies here until it is answered."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int, int]] = []  # (ticket, sample, version)
        self.held_back: deque[tuple[int, int, int]] = deque()
        self.step: TrainStep | None = None
        self.update: tuple[int, list[str]] | None = None

    def generate(self, request: Request) -> None:
        """See Engine."""
        held_back = request.ticket % 100 == 0
        pile = self.held_back if held_back else self.samples
        for sample in range(request.samples):
            pile.append((request.ticket, sample, request.version))

    def abort(self, ticket: int) -> None:
        """See Engine; nothing is dropped here."""

    def train(self, step: TrainStep) -> None:
        """See Trainer."""
        self.step = step

    def publish(self, version: int, engines: Sequence[str]) -> None:
        """See Trainer."""
        self.update = (version, list(engines))


def measure(in_flight: int, samples: int) -> float:
    """Processor time per sample, in microseconds, with that many samples in flight.

    Args:
        in_flight: samples on the engines.
        samples: measured, after as many as are in flight have gone through.
    """
    engines = -(-in_flight // PER_ENGINE)
    batch = PROMPTS_PER_BATCH * SAMPLES_PER_PROMPT
    total = samples + 3 * in_flight + 4 * batch
    config = SchedulerConfig(
        prompts_per_batch=PROMPTS_PER_BATCH,
        samples_per_prompt=SAMPLES_PER_PROMPT,
        updates_per_batch=UPDATES_PER_BATCH,
        in_flight_per_engine=in_flight // engines,
        lag=LagOptions(max=UPDATES_PER_BATCH * (2 * in_flight // batch + 4)),
        partial_rollout=True,
        reward_timeout=60.0,
    )
    ledger = PromptLedger([str(i) for i in range(total // SAMPLES_PER_PROMPT)])
    desk = Desk()
    scheduler = Scheduler(config, ledger, desk, clock=time.monotonic)
    scheduler.start({f"engine-{i}": desk for i in range(engines)})
    dice = random.Random(0)
    _answer(scheduler, desk, dice, in_flight)
    gc.collect()
    start = time.process_time()
    _answer(scheduler, desk, dice, samples)
    return (time.process_time() - start) / samples * 1e6


def _answer(scheduler: Scheduler, desk: Desk, dice: random.Random, samples: int) -> None:
    """Let `samples` samples end, and the trainer do whatever it is asked."""
    for done in range(samples):
        pile = desk.samples
        if not pile or (done % 100 < 1 and desk.held_back):
            ticket, sample, version = desk.held_back.popleft()
        else:
            place = dice.randrange(len(pile))
            ticket, sample, version = pile[place]
            pile[place] = pile[-1]
            pile.pop()
        scheduler.on_generated(ticket, sample, ((version, 100),))
        scheduler.on_scored(ticket, sample, 1.0)
        while desk.step or desk.update:
            if desk.step:
                desk.step = None
                scheduler.on_trained()
            elif desk.update:
                version, engines = desk.update
                desk.update = None
                for engine in engines:
                    scheduler.on_engine_updated(engine, version)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print microseconds per sample for each number in flight."""
    parser = argparse.ArgumentParser(prog="python -m vespo_openrlhf.scheduling.bench")
    parser.add_argument("--samples", type=int, default=200_000, help="measured for each size")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = [{"in_flight": n, "us_per_sample": measure(n, options.samples)} for n in IN_FLIGHT]
    if options.json:
        print(json.dumps(rows))
    else:
        print("in flight   microseconds per sample")
        for row in rows:
            print(f"{row['in_flight']:9d}   {row['us_per_sample']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
