"""`python -m vespo_openrlhf.simulate`: size a cluster and a lag bound before renting it."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from vespo_openrlhf.scheduling import PolicyError
from vespo_openrlhf.scheduling.lag import KV, LagOptions, OnStale
from vespo_openrlhf.scheduling.policies import policy_class, policy_names, unused_options

from .calibrate import MeasuredRun, read_run
from .simulation import (
    PRESETS,
    STREAMING,
    Baselines,
    RunResult,
    Setup,
    simulate,
    summary,
)

DESCRIPTION = """\
Run the asynchronous scheduler in simulated time: the real scheduler, on engines and a trainer that
exist only as speeds. It tells what a lag bound costs and what a cluster yields: samples per second
against the synchronous loop and against OpenRLHF's queue of one batch on the same GPUs, the lag of
the tokens that were trained, and who was idle.

The model: an engine decodes one token of each of its n active sequences in
step-seconds + step-seconds-per-sequence * n; response lengths are lognormal and cut, or measured
ones from a file; the trainer trains tokens at a steady speed (by default just what the engines
yield when they are full). Measure the numbers on one GPU of yours, then ask about any number.

Lag is counted in optimizer updates; --lag-batches counts rollout batches of N updates.
"""

EXAMPLES = """\
examples:
  # the published split of 48 + 16 GPUs, nothing older than 4 rollout batches
  python -m vespo_openrlhf.simulate --preset paper-async --lag-batches 4
  # what the bound costs, as a picture
  python -m vespo_openrlhf.simulate --preset paper-async --plot throughput.png
  # twice the engines on batches twice as large, a weight update of 5 s, an engine death an hour
  python -m vespo_openrlhf.simulate --engines 96 --prompts 2048 --publish-seconds 5 \\
      --engine-mtbf 345600
  # what a run of yours would have come to with less lag, next to what it came to
  python -m vespo_openrlhf.simulate --from-run runs/mine
  python -m vespo_openrlhf.simulate --from-run runs/mine --lag-batches 1
  # a policy of your own, before a run has it
  python -m vespo_openrlhf.simulate --preset one-node --policy my_policy.py:Mine
  # Qwen3-30B-A3B, whose engines' experts are replayed: 48 layers x 8 experts of a byte
  python -m vespo_openrlhf.simulate --preset paper-async --routing-bytes-per-token 384
  # as much lag as an effective sample size of one half allows, if 6 updates halve it
  python -m vespo_openrlhf.simulate --lag-batches 16 --target-ess 0.5 --ess-half-lag 6
"""

#: Flags that replace a number of the preset: flag -> (where it lives, type, help).
OVERRIDES: dict[str, tuple[str, type, str]] = {
    "prompts": ("setup.prompts_per_batch", int, "prompts per rollout batch"),
    "samples": ("setup.samples_per_prompt", int, "responses per prompt"),
    "updates": ("setup.updates_per_batch", int, "N: optimizer updates per rollout batch"),
    "in-flight": ("setup.in_flight_per_engine", int, "sequences kept in flight per engine"),
    "engines": ("cluster.engines", int, "inference engines"),
    "max-sequences": ("cluster.max_sequences", int, "sequences an engine decodes at once"),
    "step-seconds": ("cluster.step_seconds", float, "seconds of a decode step, and"),
    "step-seconds-per-sequence": (
        "cluster.step_seconds_per_sequence",
        float,
        "seconds more per active sequence",
    ),
    "train-tokens-per-second": ("cluster.train_tokens_per_second", float, "the trainer's speed"),
    "update-seconds": ("cluster.update_seconds", float, "seconds per update, beside its tokens"),
    "publish-seconds": ("cluster.publish_seconds", float, "seconds of a weight update"),
    "prefill-tokens-per-second": (
        "cluster.prefill_tokens_per_second",
        float,
        "an engine's speed where a weight update costs it the KV cache (default: no cost)",
    ),
    "turns": ("cluster.turns", int, "turns of a response, each as long as --lengths say"),
    "environment-seconds": (
        *("cluster.environment_seconds", float),
        "mean seconds of its environment before each turn, with the response away from its engine",
    ),
    "reward-seconds": ("cluster.reward_seconds", float, "seconds from last token to verdict"),
    "routing-bytes-per-token": (
        "setup.routing_bytes_per_token",
        float,
        "bytes of the experts to replay with a token, layers x experts per token; with it, what "
        "they take is printed (default: 0, or the run's, which has the prompts' in it)",
    ),
    "ess-half-lag": ("cluster.ess_half_lag", float, "mean lag in updates that halves the ESS"),
    "length-median": ("lengths.median", float, "median response, tokens"),
    "length-sigma": ("lengths.sigma", float, "sigma of the lognormal lengths"),
    "length-cut": ("lengths.cut", int, "longest response, tokens"),
    "engine-mtbf": ("faults.engine_mtbf", float, "mean seconds until an engine dies"),
    "lost-rewards": ("faults.lost_reward_share", float, "share of rewards that never return"),
    "filtered": ("faults.filtered_share", float, "share of groups that filtering refuses"),
}

GIB = 2**30
PLOT_LAGS = (1, 2, 3, 4, 6, 8, 12, 16)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.simulate",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--preset", choices=sorted(PRESETS), default="paper-async")
    start.add_argument(
        "--from-run",
        type=Path,
        metavar="DIR",
        help="speeds, lengths, batches and lag as measured in the folder of a training run "
        "(--run.dir); what was measured is printed beside what is predicted",
    )
    lag = parser.add_argument_group("lag")
    lag.add_argument(
        "--lag-batches",
        type=float,
        help="L: no trained token is older than this many rollout batches (default 4, or the "
        "run's; a --policy without a bound has none)",
    )
    lag.add_argument(
        "--on-stale",
        choices=get_args(OnStale),
        help="wait for a group that would become too old, drop it, or keep it (default wait, or "
        "the run's)",
    )
    lag.add_argument(
        "--policy",
        metavar="NAME",
        help=f"what decides: {', '.join(policy_names())}, or a class of yours as "
        "path/to/file.py:Class (default bounded, or the run's)",
    )
    lag.add_argument("--sync-every", type=int, help="updates between weight syncs (default N)")
    lag.add_argument(
        "--target-ess", type=float, help="steer the working lag to this effective sample size"
    )
    lag.add_argument(
        "--kv",
        choices=get_args(KV),
        help="after a weight update engines recompute the KV cache of what is unfinished, or keep "
        "it (default recompute, or the run's)",
    )
    lag.add_argument(
        "--no-partial-rollout",
        action="store_true",
        help="engines finish what they have before they take new weights",
    )
    numbers = parser.add_argument_group("numbers that replace those of the preset")
    for flag, (_, kind, text) in OVERRIDES.items():
        numbers.add_argument(f"--{flag}", type=kind, metavar="X", help=text)
    numbers.add_argument(
        "--lengths", type=Path, metavar="FILE", help="measured lengths, a JSON list of tokens"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--seed", type=int, default=0, help="of lengths and faults (default 0)")
    output.add_argument("--json", action="store_true", help="print the figures as JSON")
    output.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help=f"draw throughput against L for L = {', '.join(map(str, PLOT_LAGS))} batches",
    )
    return parser


def build_setup(options: argparse.Namespace, setup: Setup) -> Setup:
    """`setup` with the numbers that were given. Raises ValueError for ones that do not fit."""
    changes: dict[str, dict[str, Any]] = {p: {} for p in ("setup", "cluster", "lengths", "faults")}
    for flag, (place, _, _) in OVERRIDES.items():
        value = getattr(options, flag.replace("-", "_"))
        if value is not None:
            part, name = place.split(".")
            changes[part][name] = value
    if options.lengths is not None:
        changes["lengths"]["measured"] = tuple(json.loads(options.lengths.read_text()))
    cluster = replace(
        setup.cluster,
        lengths=replace(setup.cluster.lengths, **changes["lengths"]),
        faults=replace(setup.cluster.faults, **changes["faults"]),
        **changes["cluster"],
    )
    return replace(setup, cluster=cluster, **changes["setup"])


def build_lag(
    options: argparse.Namespace, setup: Setup, measured: MeasuredRun | None
) -> LagOptions:
    """The lag options that were given, and for the others the run's or the defaults, as far as
    the policy uses them."""
    lag = measured.lag if measured else LagOptions(max=4 * setup.updates_per_batch)
    if options.policy is not None:
        unused = unused_options(policy_class(options.policy), lag)
        left_out = {name: getattr(LagOptions, name) for name in unused}
        lag = replace(lag, policy=options.policy, **left_out)
    names = ("on_stale", "sync_every", "target_ess", "kv")
    changes = {name: getattr(options, name) for name in names}
    if options.lag_batches is not None:
        changes["max"] = int(options.lag_batches * setup.updates_per_batch)
    return replace(lag, **{name: value for name, value in changes.items() if value is not None})


def run(setup: Setup, options: argparse.Namespace, lag: LagOptions, partial: bool) -> RunResult:
    """One run with this bound."""
    partial_rollout = partial and not options.no_partial_rollout
    return simulate(setup, lag, STREAMING, partial_rollout=partial_rollout, seed=options.seed)


def draw(path: Path, results: dict[int, RunResult], baselines: Baselines, setup: Setup) -> None:
    """Throughput and mean lag against L, with the two loops there are today."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n = setup.updates_per_batch
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    speeds = [result.samples_per_second for result in results.values()]
    axes.plot(list(results), speeds, "o-", color="C0", label="this scheduler")
    for result, name, colour in (
        (baselines.queued, "OpenRLHF's queue of one batch", "C1"),
        (baselines.synchronous, "synchronous", "C3"),
    ):
        axes.axhline(result.samples_per_second, color=colour, linestyle="--", label=name)
    axes.set(xlabel=f"lag bound L (rollout batches of {n} updates)", ylabel="samples per second")
    axes.set_ylim(bottom=0)
    lags = axes.twinx()
    mean_lags = [result.mean_lag / n for result in results.values()]
    lags.plot(list(results), mean_lags, "s:", color="0.5", label="mean token lag (right)")
    lags.set_ylabel("mean token lag (rollout batches)")
    lags.set_ylim(bottom=0)
    handles = [handle for ax in (axes, lags) for handle in ax.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="center right")
    figure.savefig(path, dpi=150)


def describe(figures: dict[str, Any]) -> str:
    """The figures for a reader."""
    f = figures
    lines = [
        f"samples per second   {f['samples_per_second']:.1f}   "
        f"({f['speedup_vs_sync']:.2f} x synchronous, {f['speedup_vs_queue']:.2f} x queue of one)",
        f"seconds per batch    {f['seconds_per_batch']:.1f}",
        f"token lag, batches   mean {f['mean_lag_batches']:.2f}, max {f['max_lag_batches']:.2f}",
        f"idle share           trainer {f['trainer_idle']:.0%}, engines {f['engine_idle']:.0%}; "
        f"engines' slots used {f['engine_occupancy']:.0%}",
        f"waited for old ones  {f['waited']:.0%} of the time",
        f"groups               dropped {f['dropped']}, sent again {f['resent']}, "
        f"filtered {f['filtered']}, abandoned {f['abandoned']}",
        f"prompts              lost {f['lost']}, duplicated {f['duplicated']}",
    ]
    if "routing_bytes_held" in f:
        lines.append(
            f"experts to replay    {f['routing_bytes_per_batch'] / GIB:.3g} GiB a batch "
            f"({f['routing_bytes_per_second'] / 2**20:.3g} MiB/s), at most "
            f"{f['routing_bytes_held'] / GIB:.3g} GiB held at a time"
        )
    if "measured_samples_per_second" in f:
        lines.append(
            f"measured in the run   {f['measured_samples_per_second']:.1f} samples per second; "
            f"predicted / measured = {f['predicted_to_measured']:.2f}"
        )
    if f["ess"] is not None:
        lines.append(
            f"effective samples    {f['ess']:.2f} at a working lag of {f['final_working_lag']}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, and print or draw the figures.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        0, or 2 for options that do not fit or a policy that fails, with the reason on standard
        error.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        measured = read_run(options.from_run) if options.from_run else None
        setup = build_setup(options, measured.setup if measured else PRESETS[options.preset])
        lag = build_lag(options, setup, measured)
        partial = measured.partial_rollout if measured else True
        if lag.target_ess is not None and setup.cluster.ess_half_lag is None:
            raise ValueError("--target-ess needs --ess-half-lag: how fast lag costs samples")
        baselines = Baselines.of(setup, options.seed)
        if options.plot is not None:
            n = setup.updates_per_batch
            results = {
                batches: run(setup, options, replace(lag, max=batches * n), partial)
                for batches in PLOT_LAGS
            }
            draw(options.plot, results, baselines, setup)
            report: dict[str, Any] = {
                str(batches): summary(result, baselines, setup)
                for batches, result in results.items()
            }
        else:
            report = summary(run(setup, options, lag, partial), baselines, setup)
            if measured:
                speed = measured.samples_per_second
                report["measured_samples_per_second"] = speed
                report["predicted_to_measured"] = report["samples_per_second"] / speed
    except (ValueError, OSError, PolicyError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(report, indent=2))
    elif options.plot is not None:
        for batches, figures in report.items():
            print(f"L = {batches} batches\n{describe(figures)}\n")
        print(f"drawn: {options.plot}")
    else:
        print(describe(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
