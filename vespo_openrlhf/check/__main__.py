"""`python -m vespo_openrlhf.check`: will this recipe run, will it fit, how long will it take?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf.check.gpus import Machines
from vespo_openrlhf.check.report import as_json, as_text
from vespo_openrlhf.check.speed import Rates

PROGRAM = "python -m vespo_openrlhf.check"

DESCRIPTION = """\
Answers before a node is rented: are all flags valid, do the batches divide, can the lag bound be
kept, are the files there, are there enough GPUs, does it fit into their memory, how long will it
take? Nothing is started. A script is run with `ray` replaced by a recorder, so whatever it would
submit is checked, with the environment variables that are set.

Exits with 1 if something was found that has to be changed, and says what to write instead.
"""

EXAMPLES = """\
examples:
  python -m vespo_openrlhf.check scripts/qwen3-30b-a3b-sync.sh 8 --nodes 8 --gpus-per-node 8
  LOSS=gspo python -m vespo_openrlhf.check scripts/qwen3-8b.sh --train.batch_size 1024
  # against a running cluster
  python -m vespo_openrlhf.check scripts/one-gpu-gsm8k.sh --address http://127.0.0.1:8265
  # flags without a script; an H200
  python -m vespo_openrlhf.check --gpu-memory 140 --actor.model_name_or_path models/qwen3 ...
"""


def build_parser() -> argparse.ArgumentParser:
    """Check's own options; everything else is the recipe's."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [SCRIPT [ARGUMENT ...]] [FLAG ...] [option ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    machines = parser.add_argument_group("where it is to run (default: what the recipe asks for)")
    machines.add_argument("--nodes", type=int, help="nodes of the cluster")
    machines.add_argument("--gpus-per-node", type=int, help="GPUs of each")
    machines.add_argument("--address", help="a running cluster's dashboard: http://HOST:8265")
    machines.add_argument(
        "--gpu-memory",
        type=float,
        default=Machines.gpu_memory,
        metavar="GIB",
        help="memory of one GPU (default: %(default)s, an H100 or A100 of 80 GB)",
    )
    machines.add_argument(
        "--node-memory",
        type=float,
        metavar="GIB",
        help="memory of one node, which routing replay is held against (default: not known)",
    )
    machines.add_argument(
        "--model-config",
        type=Path,
        metavar="PATH",
        help="config.json of a model that is not here, or a folder of such files",
    )
    rates = parser.add_argument_group("rates that the time is estimated from (default: an H100)")
    texts = {
        "tflops": "bf16 arithmetic of one GPU at its peak",
        "utilisation": "share of it that training reaches",
        "bandwidth": "of a GPU's memory, GB/s",
        "network": "GB/s at which a GPU gathers sharded weights",
        "mean_response": "tokens (default: half of --rollout.max_new_tokens)",
    }
    for field in dataclasses.fields(Rates):
        default = "" if field.default is None else f" (default: {field.default:g})"
        rates.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=float,
            default=field.default,
            metavar="X",
            help=texts[field.name] + default,
        )
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="get config and tokenizer of a hub model that is not here (some 10 MB, no weights)",
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, and print the judgement.

    Returns:
        0; 1 where something has to be changed; 2 where there is nothing to check.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    options, recipe = parser.parse_known_args(words)
    if not recipe:
        parser.print_usage(sys.stderr)
        print(f"{PROGRAM}: name a script or flags (see --help)", file=sys.stderr)
        return 2

    # Not before --help is answered: these import torch.
    from vespo_openrlhf.check.judgement import judge
    from vespo_openrlhf.check.recipe import submitted_flags
    from vespo_openrlhf.check.resolve import resolve
    from vespo_openrlhf.check.shape import fetch

    try:
        if not recipe[0].startswith("-"):
            script = Path(recipe[0])
            if not script.is_file():
                raise ValueError(f"{script}: there is no such script")
            flags = submitted_flags(script, recipe[1:])
        else:
            flags = recipe
        resolved = resolve(flags)
        if options.fetch and resolved.flags["actor.model_name_or_path"]:
            fetch(resolved.flags["actor.model_name_or_path"])
    except ValueError as refused:
        for fault in getattr(refused, "faults", (refused,)):
            print(f"error    {fault}")
        return 1
    names = [field.name for field in dataclasses.fields(Machines)]
    machines = Machines(**{name: getattr(options, name) for name in names})
    rates = Rates(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Rates)})
    judgement = judge(resolved, machines, rates, options.model_config)
    if options.json:
        print(json.dumps(as_json(resolved, judgement), indent=2, default=str))
    else:
        print(as_text(resolved, judgement))
    return 1 if judgement.errors else 0


if __name__ == "__main__":
    sys.exit(main())
