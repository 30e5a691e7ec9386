"""`python -m vespo_openrlhf.study --preset quick`: the stability study on this machine's cores."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vespo_openrlhf.options import split_options
from vespo_openrlhf.study.cells import LossSetting, Recipe
from vespo_openrlhf.study.presets import CONTROL, KNOWN, PRESETS, Grid, Study
from vespo_openrlhf.study.store import Store

DESCRIPTION = """\
Train a small model off-policy with each policy loss and see which stay up as data get stale.

A rollout batch is sampled with one set of weights and then trained on for N updates, so its last
mini-batch is N - 1 updates old; --lag makes all of it older still. The losses are the very
functions that the full stack trains with. The task is addition with worked columns; a policy that
was taught by somebody whose pen slips has to make every digit reliable. 256 updates take some ten
to twenty seconds on one core, of uneven some four and of long ten.

Presets:
  quick     VESPO, GRPO, SAPO and REINFORCE at N = 8 and 64: ten minutes on two cores
  paper     every loss at N = 4 to 64, some with extra lag or twice the learning rate
  ablation  length normalisation, and kernels that treat both signs alike
  mismatch  noise on the engine's logits or on its log-probs, and a sampler in bfloat16;
            mismatch-others: the same for the losses that it leaves out
  variants  other shapes, and weights and kernels that are set from the data
  kernel    a sweep of (c1, c2)
  tuned     each loss tuned with the same budget, learning rate included, then on fresh seeds
  gpu       the like with a decoder of 13 million parameters on some 400 tokens, for one GPU; it
            needs torch alone: --minutes 10
  primary   what docs/study/protocol.md lays down: candidates and rivals on 64 fresh seeds

Tasks (--task): addition, some 30 tokens; uneven, a running sum in 10 to 200 tokens whose length
tells nothing; long, the same in some 1,000; columns, sums of forty digits in 400. A task of your
own is a file in study/tasks.

Finished runs are kept in --out and skipped the next time: interrupt and go on as you like. It
leaves report.html (one file, no network), figures as PNG and SVG, tables as CSV and Markdown.

`python -m vespo_openrlhf.study claims docs/study` works the tables of the pages there out from
the runs beside them; `python -m vespo_openrlhf.study routing` trains a mixture of experts with and
without routing replay, on the full stack.
"""

EXAMPLES = """\
examples:
  python -m vespo_openrlhf.study --preset quick
  python -m vespo_openrlhf.study --preset ablation --n 4 16 --seeds 1 2 3 4
  python -m vespo_openrlhf.study --preset paper --task uneven
  python -m vespo_openrlhf.study --preset quick --backend openrlhf
  python -m vespo_openrlhf.study --loss vespo gspo,clip_low=0.03,clip_high=0.04 --n 64 --lag 0 64
  python -m vespo_openrlhf.study --loss VESPO my_loss.py:my_loss --n 8 64 --learning-rate 3e-4 6e-4
"""


def parse_loss(text: str) -> LossSetting:
    """A loss from the command line: GRPO, or ppo, or my.py:f, then ,option=value for each option,
    as `split_options` has it.

    Raises:
        ValueError: an option without a value.
    """
    name, options = split_options(text)
    short, *rest = text.split(",")
    for label, setting in KNOWN.items():
        if name.lower() in (label.lower(), setting.name):
            name, short, options = setting.name, label, dict(setting.options) | options
            break
    return LossSetting(", ".join([short, *rest]), name, options)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.study",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the study's folder (default runs/study-PRESET)"
    )
    parser.add_argument(
        "--task",
        metavar="TASK",
        help="what is trained on: addition (the default), uneven, long or columns, with its own "
        "learning rate and recipe; the folder is then runs/study-PRESET-TASK",
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="runs at a time (default: one per core)"
    )
    parser.add_argument(
        "--backend",
        choices=("light", "openrlhf"),
        default="light",
        help="openrlhf: then a few of the cells on the full stack too (OpenRLHF, Ray, vLLM, "
        "DeepSpeed; two to five minutes each on two cores), beside the light trainer's runs. They "
        "are VESPO and GRPO at N = 8 and 64 on the first seed (of primary: VESPO, pessimistic, "
        "TOPR and GRPO at N = 64 on three), or what --loss and --n say",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cpu, but for the preset gpu cuda"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="begin no run after so many; what is done is kept",
    )
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    grid = parser.add_argument_group("axes that replace those of the preset's grids")
    grid.add_argument("--loss", nargs="+", metavar="LOSS", help="NAME[,OPTION=VALUE...]")
    grid.add_argument("--n", nargs="+", type=int, metavar="N", help="updates per rollout batch")
    grid.add_argument("--lag", nargs="+", type=int, help="updates before a batch starts to train")
    grid.add_argument("--learning-rate", nargs="+", type=float, metavar="LR")
    grid.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    grid.add_argument("--updates", type=int, help=f"of every run (default {Recipe.updates})")
    return parser


def build_study(options: argparse.Namespace) -> Study:
    """The preset with the axes that were given.

    Raises:
        ValueError: values that do not fit, or a loss that cannot be found.
    """
    study = PRESETS[options.preset]
    study = _on_task(study, options.task or study.recipe.task)
    changes: dict[str, Any] = {}
    if options.lag:
        changes["lags"] = tuple(options.lag)
    if options.loss:
        changes["losses"] = tuple(parse_loss(text) for text in options.loss)
    if options.n:
        changes["updates_per_batch"] = tuple(options.n)
    shared: dict[str, Any] = {}
    if options.learning_rate:
        shared["learning_rates"] = tuple(options.learning_rate)
    if options.seeds:
        shared["seeds"] = tuple(options.seeds)
    if not changes and not shared and options.updates is None:
        return study
    if not study.grids:
        raise ValueError(f"the preset {study.name} has no axes to replace: leave them out")
    full_stack = replace(
        study.full_stack,
        **{name: values for name, values in (shared | changes).items() if name != "seeds"},
        seeds=(options.seeds or study.full_stack.seeds)[:1],
    )
    grids = tuple(replace(grid, **shared, **_unless_control(grid, changes)) for grid in study.grids)
    recipe = study.recipe
    if options.updates is not None:
        recipe = replace(recipe, updates=options.updates)
    return replace(study, grids=grids, tuning=None, full_stack=full_stack, recipe=recipe)


def _on_task(study: Study, name: str) -> Study:
    """The study on another task than the first, with what that one has of its own.

    Raises:
        ValueError: there is no such task.
    """
    if name == Recipe.task == study.recipe.task:
        return study
    from vespo_openrlhf.study.tasks import get_task

    task = get_task(name)
    recipe = replace(study.recipe, task=name, **task.recipe)
    return replace(study.at_rate(task.learning_rate), recipe=recipe)


def _unless_control(grid: Grid, changes: dict[str, Any]) -> dict[str, Any]:
    return {} if grid.updates_per_batch == (1,) else changes


def run(
    study: Study,
    store: Store,
    processes: int,
    *,
    full_stack: bool,
    progress: bool,
    device: str = "cpu",
    until: float = math.inf,
) -> None:
    """Run what is missing of the study, the tuned settings once they are known."""
    from vespo_openrlhf.study.runner import run_missing

    light = partial(
        run_missing,
        store=store,
        processes=processes,
        progress=progress,
        device=device,
        until=until,
    )
    light(study.cells(), title=study.name)
    if study.tuning is not None:
        while missing := store.missing(study.tuning.progress(store.final).cells):
            if time.time() > until:
                return
            light(missing, title="tuning")
        chosen = study.tuning.progress(store.final).chosen
        light(study.tuning.report(chosen), title="tuned")
    if full_stack and time.time() < until:
        from vespo_openrlhf.study import full_stack as stack

        stack.run_missing(study.full_stack.cells(), stack.full_stack_store(store))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and write what it came to.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        0; 2 for options that do not fit and 1 if a process was killed, a run failed or none came
        to its end, with the reason on standard error; 130 if interrupted, after a report on the
        runs that were finished.
    """
    words = _arguments(arguments)
    if words[:1] == ["claims"]:
        from vespo_openrlhf.study.claims import pages

        return pages.main(words[1:])
    if words[:1] == ["routing"]:
        from vespo_openrlhf.study import routing

        return routing.main(words[1:])
    parser = build_parser()
    options = parser.parse_args(words)
    name = "-".join(filter(None, ("study", options.preset, options.task)))
    out = options.out or Path("runs") / name
    try:
        study = build_study(options)
        cells = study.cells()
        device = options.device or ("cuda" if options.preset == "gpu" else "cpu")
        processes = options.processes
        if processes is None:
            processes = len(os.sched_getaffinity(0)) if device == "cpu" else 1
        if processes < 1:
            raise ValueError(f"--processes must be at least 1, got {processes}")
        if options.minutes is not None and not options.minutes > 0:
            raise ValueError(f"--minutes must be above 0, got {options.minutes:g}")
        _check_device(device)
        _check_losses(study)
        if full_stack := options.backend == "openrlhf":
            from vespo_openrlhf.study.full_stack import check_cells

            check_cells(study.full_stack.cells(), cells, study.recipe)
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    store = Store(out, study.recipe)
    interrupted = False
    until = math.inf if options.minutes is None else time.time() + 60 * options.minutes
    try:
        run(
            study,
            store,
            processes,
            full_stack=full_stack,
            progress=not options.quiet,
            device=device,
            until=until,
        )
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted; the same command goes on from here", file=sys.stderr)
    except (OSError, RuntimeError) as error:  # a full disk among them
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    cells = study.all_cells(store.final)
    finished = {cell.key(study.recipe) for cell in cells}
    finished -= {cell.key(study.recipe) for cell in store.missing(cells)}
    if all(cell.loss == CONTROL for cell in cells if cell.key(study.recipe) in finished):
        print("no run but of the control is finished: nothing to report", file=sys.stderr)
        return 130 if interrupted else 1

    if left := len(store.missing(cells)):
        print(
            f"{left} of {len(cells)} runs are not finished"
            + (" (a tuning asks for more as it goes)" if study.tuning else "")
            + "; the same command goes on",
            file=sys.stderr,
        )
    if absent := [name for name in ("matplotlib", "scipy") if find_spec(name) is None]:
        from vespo_openrlhf.study.plain import write_table

        print(write_table(study, store))
        print(f"without {' and '.join(absent)} there are no tests, figures and report")
        return 130 if interrupted else 0

    from vespo_openrlhf.study.analysis import Analysis
    from vespo_openrlhf.study.page import machine, study_tables, write_report
    from vespo_openrlhf.study.tables import markdown

    command = ["python", "-m", "vespo_openrlhf.study", *words]
    provenance = {"command": shlex.join(command), "commit": _commit(), "machine": machine()}
    analysis = Analysis(study, store)
    summary = write_report(analysis, out, provenance)
    if options.json:
        print(json.dumps(summary, indent=1))
    else:
        for made in study_tables(analysis):
            if made.rows:
                print(markdown(*made.make(made.rows)))
        print(f"report: {out / 'report.html'}")
    return 130 if interrupted else 0


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU here: --device cpu runs it without, and takes hours")


def _check_losses(study: Study) -> None:
    from vespo_openrlhf.losses import get_policy_loss

    for name, options in {(s.name, tuple(s.options.items())) for s in study.settings()}:
        get_policy_loss(name, **dict(options))


def _arguments(arguments: Sequence[str] | None) -> list[str]:
    return sys.argv[1:] if arguments is None else list(arguments)


def _commit() -> str:
    where = Path(__file__).parent
    command = ["git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "not a git checkout"


if __name__ == "__main__":
    sys.exit(main())
