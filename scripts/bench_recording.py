"""What recording costs a run, and what a large recording takes to open and to stream.

    .venv/bin/python scripts/bench_recording.py run [--pairs 6] [--batches 12] [--json]
    .venv/bin/python scripts/bench_recording.py stream [--samples 1000000] [--tokens 200] [--json]

`run` trains the embedded model on the real stack with --run.record and without, in turn, and prints
the samples per second of each pair and the geometric mean of their ratios. The first batches are
left out. The second run of a pair may be the faster one, whichever it is: they change places from
pair to pair, and an even number of pairs makes up for it.

`stream` writes synthetic samples and reads them in a process of its own, in recorded and in
shuffled order: seconds, and the most memory that process had before, once open, and after
each tenth of the groups.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

from vespo_openrlhf.files import read_json_lines
from vespo_openrlhf.quickstart.pipeline import (
    PROMPTS_PER_BATCH,
    SAMPLES_PER_PROMPT,
    Plan,
    training_flags,
)
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.reading import Recording
from vespo_openrlhf.recorded.schema import Origin, RecordedSample
from vespo_openrlhf.recorded.writing import ShardWriter

WARM_UP_BATCHES = 3
GROUP = 8


def measure_run(built: Path, out: Path, batches: int, record: bool) -> float:
    """Samples per second of one run."""
    out.mkdir()
    (out / "embedded").symlink_to(built)
    plan = Plan(out, batches=batches)
    extra = ["--run.record"] if record else []
    log = out / "log"
    with open(log, "wb") as output:
        arguments = ["-m", "vespo_openrlhf.train", *training_flags(plan), *extra]
        done = subprocess.run([sys.executable, *arguments], stdout=output, stderr=output)
    if done.returncode:
        sys.exit(f"the run has failed; its last lines:\n{log.read_text()[-2000:]}")
    lines = read_json_lines(plan.run_dir / "metrics.jsonl")
    times = [line["time"] for line in lines if line["kind"] == "train"][WARM_UP_BATCHES:]
    samples = (len(times) - 1) * PROMPTS_PER_BATCH * SAMPLES_PER_PROMPT
    return samples / (times[-1] - times[0])


def compare_runs(pairs: int, batches: int) -> dict[str, object]:
    """Each pair, which of the two goes first taking turns."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        build = ["-m", "vespo_openrlhf.embedded", "--out", str(out / "embedded"), "--quiet"]
        subprocess.run([sys.executable, *build], stdout=subprocess.DEVNULL, check=True)
        for pair in range(pairs):
            speeds = {}
            for record in (True, False) if pair % 2 else (False, True):
                name = f"{pair}-{record}"
                speeds[record] = measure_run(out / "embedded", out / name, batches, record)
            found.append((speeds[True], speeds[False]))
            print(
                f"pair {pair + 1}: {speeds[True]:.1f} recorded, {speeds[False]:.1f} not: "
                f"{speeds[True] / speeds[False]:.3f}",
                file=sys.stderr,
            )
    ratios = [recorded / plain for recorded, plain in found]
    return {
        "samples_per_second": found,
        "ratios": ratios,
        "ratio": statistics.geometric_mean(ratios),
    }


def write_samples(folder: Path, samples: int, tokens: int) -> None:
    """Groups side by side, as they end in a run."""
    rng = numpy.random.default_rng(0)
    writer = ShardWriter(folder, Origin("run", "synthetic"))
    for number in range(samples + -samples % (64 * GROUP)):  # whole groups
        length = int(rng.integers(tokens // 2, tokens * 3 // 2))
        block, place = divmod(number, 64 * GROUP)
        writer.add(
            RecordedSample(
                ticket=block * 64 + place % 64,
                sample=place // 64,
                samples=GROUP,
                prompt_id=f"{block * 64 + place % 64}:abcdef01",
                tokens=rng.integers(0, 30_000, length).astype(numpy.int32),
                action_mask=numpy.arange(length) >= tokens // 4,
                log_probs=-rng.random(length, dtype=numpy.float32),
                reward=float(number % 2),
                token_versions=((block, length - tokens // 4),),
            )
        )
    writer.flush()


def stream(folder: Path, tokens: int, shuffled: bool) -> dict[str, object]:
    """Read all of it, in this process."""
    started, memory = time.monotonic(), [_most_memory()]
    recording = Recording([folder], GROUP, Limits(30_000, 2 * tokens))
    opened = time.monotonic() - started
    memory.append(_most_memory())
    order = list(range(len(recording)))
    if shuffled:
        random.Random(0).shuffle(order)
    started = time.monotonic()
    for number, group in enumerate(order, 1):
        assert None not in recording.read(group)
        if number % max(len(order) // 10, 1) == 0:
            memory.append(_most_memory())
    return {
        "samples": recording.samples,
        "seconds_to_open": opened,
        "samples_per_second": recording.samples / (time.monotonic() - started),
        "most_mib": memory,
    }


def _most_memory() -> float:
    """Of this process so far, in MiB. `resource` tells the parent's, where that had more."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_stream(samples: int, tokens: int) -> dict[str, object]:
    """Each order in a process of its own: memory is never given back."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder), samples, tokens)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        found["bytes_per_sample"] = size / samples
        for order in ("recorded", "shuffled"):
            command = [sys.executable, __file__, "read", folder, str(tokens), order]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[order] = json.loads(done.stdout)
    return found


def main() -> None:
    if sys.argv[1:2] == ["read"]:  # of `measure_stream`
        _, _, folder, tokens, order = sys.argv
        print(json.dumps(stream(Path(folder), int(tokens), order == "shuffled")))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "stream"))
    parser.add_argument("--pairs", type=int, default=6, help="of runs")
    parser.add_argument("--batches", type=int, default=12, help="of each run")
    parser.add_argument("--samples", type=int, default=1_000_000, help="to stream")
    parser.add_argument("--tokens", type=int, default=200, help="of a sample, on average")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.parse_args()
    if asked.what == "run":
        found = compare_runs(asked.pairs, asked.batches)
        text = f"with --run.record {found['ratio']:.3f} of the samples/s without"
    else:
        found = measure_stream(asked.samples, asked.tokens)
        lines = [f"{found['bytes_per_sample']:.0f} bytes a sample on disk"]
        for order in ("recorded", "shuffled"):
            read = found[order]
            assert isinstance(read, dict)
            lines.append(
                f"{order:>9}: opened in {read['seconds_to_open']:.1f} s, "
                f"{read['samples_per_second']:,.0f} samples/s; most MiB before, once open, and "
                f"after each tenth: {' '.join(f'{mib:.0f}' for mib in read['most_mib'])}"
            )
        text = "\n".join(lines)
    print(json.dumps(found) if asked.json else text)


if __name__ == "__main__":
    main()
