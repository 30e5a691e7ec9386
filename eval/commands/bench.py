"""`vespo eval bench`: what the harness costs over calling `vllm.LLM.generate` directly."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vespo_openrlhf.eval.commands.flags import add_run_options, run_of
from vespo_openrlhf.eval.commands.presets import parse_with_preset

DESCRIPTION = """\
Generate the same responses (same prompts, seeds and settings) in one process by turns with
vllm.LLM.generate, which only generates, and with the harness, which also judges every response
and has every record on disk when it ends. Prints the rates and their ratio.
"""


def main(argv: Sequence[str]) -> int:
    """Print the rates of both.

    Raises:
        ValueError: as for `run`; or an engine that is not one vLLM in this process.
    """
    parser = argparse.ArgumentParser(
        prog="vespo eval bench",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    add_run_options(parser)
    arguments = parse_with_preset(parser, argv)
    run = run_of(arguments)
    if run.endpoint or run.agent or run.engines > 1 or arguments.rounds < 1:
        raise ValueError("bench takes one engine in this process, no agent, and one round or more")
    from vespo_openrlhf.eval.engines.offline import OfflineEngine
    from vespo_openrlhf.eval.judging.verdicts import Judge
    from vespo_openrlhf.eval.results.folder import Folder
    from vespo_openrlhf.eval.running.generation import generate
    from vespo_openrlhf.eval.running.plan import plan

    planned = plan(run)
    judge = Judge()
    engine = OfflineEngine(run.model, run.revision, run.options)
    requests = planned.requests

    def direct() -> int:
        outputs = engine.llm.generate(*engine.inputs(requests), use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def harness() -> int:
        with tempfile.TemporaryDirectory() as name:
            folder = Folder(Path(name))
            generate(engine, requests, planned, folder, judge)
            names = [task.name for task in planned.tasks]
            tokens = sum(r["tokens"] for name in names for r in folder.generations(name).read())
            folder.close()
        return tokens

    def rate(generate: Callable[[], int]) -> float:
        engine.llm.reset_prefix_cache()
        started = time.perf_counter()
        tokens = generate()
        return tokens / (time.perf_counter() - started)

    ways = {"vllm.LLM.generate": direct, "vespo eval": harness}
    for way in ways.values():  # neither pays for what is only slow the first time
        way()
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            rates[name].append(rate(ways[name]))
    judge.close()
    for name, values in rates.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{name:<18} {statistics.median(values):8.0f} tokens/s ({spread})")
    plain, ours = rates.values()
    ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
    print(f"ratio {ratio:.3f} (median over {arguments.rounds} rounds of {len(requests)} responses)")
    return 0
