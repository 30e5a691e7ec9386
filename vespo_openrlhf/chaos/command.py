"""The command: the loop that strikes, watches and waits, and the report at its end."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vespo_openrlhf import cpu
from vespo_openrlhf.chaos import audit, monitor
from vespo_openrlhf.chaos import stack as stack_module
from vespo_openrlhf.chaos.faults import Strike
from vespo_openrlhf.chaos.monitor import Monitor
from vespo_openrlhf.chaos.schedule import FAULTS, Fault, schedule
from vespo_openrlhf.chaos.stack import Stack
from vespo_openrlhf.versions import installed

#: A run that stands still for longer while no fault is open hangs.
HANG_S = 120
#: Longer than this from a fault, or from the start, to the next trained batch is no recovery.
RECOVERY_S = 420
_POLL_S = 0.5
_LAST_RECOVERY_S = 120.0
_PER_SECOND = 6.0  # verdicts; so many responses the run can train in a second, and no more

_DESCRIPTION = """\
Train the embedded model on the whole stack - OpenRLHF, Ray with three nodes on this machine, two
vLLM engines, DeepSpeed, a reward server over HTTP - and meanwhile do to it what befalls a long run.
Then hold what is left against what is promised: every prompt trained once or accounted for, none
given up, no token staler than the bound, no minutes without progress while nothing is wrong, every
resume from the last checkpoint or the one before.
"""
_EPILOG = """\
The faults, in rounds of which each holds all of them, in an order that --seed decides:
  engine stopped   the core of an engine gets SIGSTOP: it is there, and never answers again
  engine killed    an engine's core or actor gets SIGKILL
  reward killed    the reward server is gone for 5 to 20 s
  disk full        the disk of the checkpoints is full for 30 to 40 s: the run may end, and is
                   resumed then (a tmpfs of its own: for root only, else left out)
  driver killed    the training's own process gets SIGKILL; it is resumed 1 to 10 s later
  node lost        all processes of a node with an engine get SIGKILL; 20 to 40 s later there is
                   another node
A fault is over when what it struck is there again and a batch has been trained since. Only then
comes a pause, and the next one. The run is resumed by the command that started it, with
--ckpt.load_enable.

Into --out: chaos.json (every fault, when, how long until the run was over it; what is wrong),
train-N.log (of each start), run/ (the run folder), ray.log. Exit status: 0, 1 for a broken promise,
2 for wrong arguments. It takes some minutes more than --minutes: 2 to start, and what is left of
the data at the end, at full speed. It needs 8 GB of memory and no GPU. Ctrl-C ends it in order and
leaves no process.

  python scripts/chaos.py --minutes 20 --seed 0 --out runs/chaos
  python scripts/chaos.py --minutes 5 --faults "node lost" "driver killed" --out runs/chaos-nodes
"""


class ChaosError(Exception):
    """The run is past saving: the message says why."""


class Chaos:
    """One chaos run over a stack.

    Args:
        stack: has just been started.
        minutes: from the first checkpoint on, no fault is begun after so many.
    """

    def __init__(self, stack: Stack, minutes: float) -> None:
        self.stack = stack
        self.monitor = Monitor()
        self.incidents: list[dict[str, Any]] = []
        self.violations: list[str] = []
        self._bar = tqdm(
            total=round(60 * minutes),
            desc="starting",
            unit="s",
            bar_format="{desc}: {n_fmt}/{total_fmt} s |{bar}| {postfix}",
            dynamic_ncols=True,
            disable=None,  # in a log file, the lines alone
        )
        self._seconds = 60 * minutes
        self._started = time.monotonic()

    def run(self, faults: Sequence[str], seed: int) -> None:
        """Everything, to the end of the training. Raises ChaosError."""
        self.say("Ray's workers, vLLM and DeepSpeed are starting: a minute or two")
        first = stack_module.SAVE_EVERY + 1  # there is a checkpoint to go back to
        self._watch(lambda: monitor.steps(self.stack.run) >= first, RECOVERY_S, "to start")
        self._started = time.monotonic()
        self.say(f"{first} batches are trained")
        for fault in schedule(seed, faults, stack_module.ENGINES):
            if self._rest(fault.pause_s):
                break
            self._suffer(fault)
        self.say("no more faults; the rest of the data at full speed")
        self._bar.set_description_str("finishing")
        self.stack.release()
        while self.stack.training.poll() is None:
            self._look()
            if time.monotonic() - (self.monitor.progressed_at or 0) > RECOVERY_S:
                raise ChaosError(f"the run has stood still for {RECOVERY_S} s at its end")
        if status := self.stack.training.returncode:
            raise ChaosError(f"the run ended with status {status}: see {self.stack.log_file}")

    def close(self) -> None:
        """The bar's last line."""
        self._bar.close()

    def say(self, text: str) -> None:
        """A line with the time since the first checkpoint."""
        minutes, seconds = divmod(int(self._now()), 60)
        self._bar.write(f"{minutes:3d}:{seconds:02d}  {text}", file=sys.stdout)
        sys.stdout.flush()

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _look(self) -> None:
        time.sleep(_POLL_S)
        self.monitor.observe(time.monotonic(), monitor.recorded(self.stack.run))
        trained = monitor.steps(self.stack.run)
        if trained:
            self._bar.n = min(round(self._now()), round(self._seconds))
        total = -(-self.stack.rows // stack_module.PROMPTS_PER_BATCH)
        self._bar.set_postfix_str(f"{trained}/{total} batches, {len(self.incidents)} faults")

    def _rest(self, seconds: float) -> bool:
        """Leave the run alone for so long. True: its time or its data is over meanwhile."""
        self._bar.set_description_str("undisturbed")
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._now() < self._seconds:
            self._look()
            if (status := self.stack.training.poll()) is not None:
                if status:
                    raise ChaosError(f"undisturbed, the run ended with {status}: {self._log()}")
                return True
        return self._now() >= self._seconds

    def _watch(
        self, condition: Callable[[], bool], limit_s: float, what: str, strike: Strike | None = None
    ) -> None:
        until = time.monotonic() + limit_s
        while not condition():
            self._look()
            if (status := self.stack.training.poll()) is not None:
                if strike is None or not strike.may_end_run:
                    raise ChaosError(
                        f"the run ended with {status} when it had {what}: {self._log()}"
                    )
                self.say(f"it has ended with {status}; it is resumed")
                strike.resume()
            if time.monotonic() > until:
                raise ChaosError(f"the run took more than {limit_s:g} s {what}: {self._log()}")

    def _suffer(self, fault: Fault) -> None:
        began = time.monotonic()
        self._bar.set_description_str(fault.kind)
        self.say(f"{fault.kind}{_detail(fault)}")
        self.monitor.open(began)
        incident: dict[str, Any] = dataclasses.asdict(fault) | {
            "at_s": round(self._now(), 1),
            "batches_before": monitor.steps(self.stack.run),
            "recovered_after_s": None,
        }
        self.incidents.append(incident)
        strike = Strike(fault, self.stack)
        try:
            while time.monotonic() < began + fault.down_s:
                self._look()
            strike.repair()
            repaired = time.monotonic()

            def recovered() -> bool:
                return strike.is_over() and (self.monitor.progressed_at or 0) > repaired

            self._watch(recovered, RECOVERY_S, f"to recover from: {fault.kind}", strike)
            incident["recovered_after_s"] = round(time.monotonic() - began, 1)
        finally:
            self.violations += strike.close()
            self.monitor.close(time.monotonic())
        incident["batches_after"] = monitor.steps(self.stack.run)
        self.say(f"recovered after {incident['recovered_after_s']:g} s")

    def _log(self) -> str:
        lines = self.stack.log.splitlines()[-15:]
        return "\n".join([f"the end of {self.stack.log_file}:", *(line[:300] for line in lines)])


def _detail(fault: Fault) -> str:
    details = []
    if fault.kind.startswith(("engine", "node")):
        details.append(f"engine {fault.victim}")
    if fault.kind == "engine killed":
        details.append("its core" if fault.core else "its actor")
    if fault.down_s:
        details.append(f"for {fault.down_s:g} s")
    return f" ({', '.join(details)})" if details else ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python scripts/chaos.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=20.0,
        help="from the first checkpoint on, no fault is begun after so many; above 0 (default: 20)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="decides which fault comes when and whom it strikes, the data, and the training's own "
        "randomness; what a fault hits in mid-work is up to the machine (default: 0)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder for everything; new, or an empty one"
    )
    parser.add_argument(
        "--faults",
        nargs="+",
        default=list(FAULTS),
        choices=list(FAULTS),
        metavar="FAULT",
        help=f"only these, of: {', '.join(FAULTS)} (default: all)",
    )
    parser.add_argument(
        "--train-flags",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="FLAG",
        help="what follows is added to the training's flags, and wins over ours",
    )
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes is {options.minutes:g}: it must be above 0")
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out} holds something already: give a new folder")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    options = parse(arguments)
    if not cpu.is_active():  # three nodes would share each GPU
        os.environ[cpu.FORCE_VARIABLE] = "1"
        cpu.is_active.cache_clear()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    # Enough for a machine that loses no time to faults, and for the recovery from the last; what is
    # left of the data then is trained at full speed.
    batch = stack_module.PROMPTS_PER_BATCH
    per_batch_s = batch * stack_module.SAMPLES_PER_PROMPT / _PER_SECOND
    rows = batch * round((60 * options.minutes + _LAST_RECOVERY_S) / per_batch_s)
    violations: list[str] = []
    chaos = None
    print(f"chaos: {rows} prompts, seed {options.seed}, into {options.out}", flush=True)
    try:
        folder = options.out.resolve()
        with Stack(folder, rows, options.seed, _PER_SECOND, options.train_flags) as stack:
            faults = [name for name in options.faults if name != "disk full" or stack.disk.mounted]
            left_out = [name for name in options.faults if name not in faults]
            if left_out:
                print("left out: disk full (only root can mount a small disk)", flush=True)
            if not faults:
                return 2
            chaos = Chaos(stack, options.minutes)
            try:
                chaos.run(faults, options.seed)
            except ChaosError as failed:
                violations.append(str(failed))
            finally:
                chaos.close()
    except KeyboardInterrupt:
        print("\nchaos: interrupted; everything it started is ended", file=sys.stderr)
        return 130
    violations += chaos.violations
    if chaos.monitor.longest_s > HANG_S:
        violations.append(
            f"no progress for {chaos.monitor.longest_s:.0f} s while no fault was open"
        )
    violations += audit.check_resumes(stack.resumes, stack_module.SAVE_EVERY)
    violations += audit.check_records(stack.run, rows, stack_module.BOUND)
    result = {
        "minutes": options.minutes,
        "seed": options.seed,
        "train_flags": options.train_flags,
        "versions": installed(),
        "prompts": rows,
        "faults": chaos.incidents,
        "left_out": left_out,
        "resumes": [dataclasses.asdict(resume) for resume in stack.resumes],
        "longest_stretch_without_progress_s": round(chaos.monitor.longest_s, 1),
        "violations": violations,
    }
    (options.out / "chaos.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(chaos.incidents))
    print(
        f"\n{rows} prompts; {len(stack.resumes)} resumes; longest stretch without progress while "
        f"no fault was open: {chaos.monitor.longest_s:.0f} s"
    )
    for violation in violations:
        print(f"BROKEN: {violation}")
    print("chaos: " + (f"{len(violations)} promises broken" if violations else "all promises kept"))
    return 1 if violations else 0


def table(incidents: Sequence[dict[str, Any]]) -> str:
    """One line per fault: which, when, how long until the run was over it."""
    lines = [f"{'fault':<36}{'at':>8}{'recovered after':>17}{'batches':>11}"]
    for incident in incidents:
        fault = Fault(**{f.name: incident[f.name] for f in dataclasses.fields(Fault)})
        minutes, seconds = divmod(int(incident["at_s"]), 60)
        after = incident["recovered_after_s"]
        shown = "never" if after is None else f"{after:.0f} s"
        batches = f"{incident['batches_before']}-{incident.get('batches_after', '?')}"
        name = fault.kind + _detail(fault)
        lines.append(f"{name:<36}{f'{minutes}:{seconds:02d}':>8}{shown:>17}{batches:>11}")
    return "\n".join(lines)
