"""Every loss on one recorded run, trained for one epoch and more, over several seeds.

    .venv/bin/python scripts/offline_table.py run RUN --model MODEL --problems JSONL --out OUT
    .venv/bin/python scripts/offline_table.py table OUT

`vespo replay` does this on the real stack, at a minute a training. Here the same loss objects train
in this process, with torch's AdamW at a constant learning rate, so that the state after epoch 4
of 16 is that of a training of 4 epochs: `-- --actor.lr_scheduler constant` of `vespo replay` makes
the same. A seed shuffles the groups anew in each epoch, as `--seeds` does there. RUN is a
run folder of the embedded model, as `scripts/quickstart.sh` leaves one. What is in OUT is
not done again; `--shard 0/2` and `1/2` share the work between two processes, a file each.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from vespo_openrlhf.embedded.arithmetic import Problem
from vespo_openrlhf.embedded.model import Model, accuracy
from vespo_openrlhf.files import read_json_lines
from vespo_openrlhf.losses import POLICY_LOSS_NAMES, LossInputs, get_policy_loss, summarise
from vespo_openrlhf.models import load_tokenizer
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.reading import Recording

GROUPS_PER_UPDATE = 8
UPDATES_PER_BATCH = 8
GRADIENT_CLIP = 1.0
SAMPLES_PER_PROBLEM = 4


class Data:
    """All samples of a recording, S of them, padded to T tokens.

    Attributes:
        ids, mask, mu, advantages: (S, T), (S, T - 1), (S, T - 1), (S,); mask and mu are of the
            token that comes next. A group's samples stand together.
        groups: how many.
        digest: of the shards.
        right: share of the samples with a reward of 1.
    """

    def __init__(self, run: Path, size: int, vocabulary: int) -> None:
        recording = Recording([run], size, Limits(vocabulary, 10**6), trained_only=True)
        samples = [sample for group in recording for sample in group if sample is not None]
        if len(samples) != size * len(recording):
            raise ValueError(f"{run} has groups that are not whole. {recording.account()}")
        self.groups, self.digest = len(recording), recording.digest
        self.ids = _padded([sample.tokens for sample in samples])
        self.mask = _padded([sample.action_mask for sample in samples])[:, 1:].bool()
        self.mu = _padded([sample.log_probs for sample in samples])[:, 1:]
        rewards = torch.tensor([sample.reward for sample in samples]).view(-1, size)
        self.right = float(rewards.mean())
        centred = rewards - rewards.mean(dim=1, keepdim=True)
        self.advantages = (centred / (rewards.std(dim=1, keepdim=True) + 1e-9)).flatten()


def _padded(rows: Sequence[Any]) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def log_probs(model: Model, ids_ST: Tensor) -> Tensor:
    """(S, T - 1) of each token that comes next."""
    logits = model(ids_ST).logits[:, :-1]
    found: Tensor = logits.log_softmax(-1).gather(-1, ids_ST[:, 1:, None]).squeeze(-1)
    return found


def train(
    model: Model, data: Data, name: str, epochs: int, seed: int, learning_rate: float
) -> Iterator[dict[str, float]]:
    """Train in place; after each epoch what the last batch's updates measured."""
    loss = get_policy_loss(name)
    optimizer = torch.optim.AdamW(
        model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    size = len(data.ids) // data.groups
    for epoch in range(epochs):
        order = list(range(data.groups))
        random.Random(f"{seed}-{epoch}").shuffle(order)
        measured: list[dict[str, float]] = []
        for start in range(0, data.groups, GROUPS_PER_UPDATE * UPDATES_PER_BATCH):
            batch = order[start : start + GROUPS_PER_UPDATE * UPDATES_PER_BATCH]
            updates = [
                torch.tensor([size * group + k for group in part for k in range(size)])
                for part in _parts(batch, GROUPS_PER_UPDATE)
            ]
            old: list[Tensor | None] = [None] * len(updates)
            if loss.reads_old_log_probs:  # of the policy before the batch's first update
                with torch.no_grad():
                    old = [log_probs(model, data.ids[rows]) for rows in updates]
            measured = []
            for rows, anchor in zip(updates, old, strict=True):
                inputs = LossInputs(
                    log_probs=log_probs(model, data.ids[rows]),
                    old_log_probs=anchor,
                    advantages=data.advantages[rows],
                    action_mask=data.mask[rows],
                    rollout_log_probs=data.mu[rows],
                )
                value, metrics = loss(loss.with_own_statistics(inputs))
                optimizer.zero_grad()
                value.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
                if torch.isfinite(norm):
                    scale = loss.step_scale(metrics) if loss.step_scale is not None else 1.0
                    optimizer.param_groups[0]["lr"] = learning_rate * float(scale)
                    optimizer.step()
                measured.append({key: float(v) for key, v in summarise(metrics).items()})
        yield {
            key: statistics.fmean(line[key] for line in measured)
            for key in ("log_w_abs_mean", "ess_ratio")
        }


def _parts(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def run(options: argparse.Namespace) -> None:
    """Every training that `--out` does not have yet, a line each."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    tokenizer = load_tokenizer(str(options.model), None)
    data = Data(options.run, options.group, len(tokenizer))
    problems = [
        Problem(*map(int, row["prompt"].rstrip("=").split("+")))
        for row in read_json_lines(options.problems)
    ]

    def measure(model: Model) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return accuracy(model, tokenizer, problems, samples=SAMPLES_PER_PROBLEM)

    def fresh() -> Model:
        model: Model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
        return model

    lines = read_json_lines(options.out) if options.out.exists() else []
    done = {(line["loss"], line["seed"]) for line in lines}
    own = {
        "digest": data.digest,
        "learning_rate": options.learning_rate,
        "epochs": options.epochs,
        "group": options.group,
    }
    if lines and lines[0].get("of") != own:
        sys.exit(
            f"{options.out} holds trainings of {lines[0].get('of')}, not of {own}: name another"
        )
    cells = [(seed, name) for seed in range(options.seeds) for name in options.losses]
    shard, shards = map(int, options.shard.split("/"))
    with open(options.out, "a", encoding="utf-8") as file:

        def write(line: dict[str, object]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        if not done:
            start = {"loss": "start", "seed": 0, "of": own, "right": data.right}
            write(start | {"accuracy": measure(fresh())})
        for seed, name in tqdm(cells[shard::shards], "trainings"):
            if (name, seed) in done:
                continue
            model = fresh()
            epochs = {}
            steps = train(model, data, name, max(options.epochs), seed, options.learning_rate)
            for epoch, measured in enumerate(steps, start=1):
                if epoch in options.epochs:
                    epochs[epoch] = measured | {"accuracy": measure(model)}
            write({"loss": name, "seed": seed, "epochs": epochs})


def print_table(options: argparse.Namespace) -> None:
    """The mean over the seeds with its standard error, as Markdown."""
    lines = [line for path in options.files for line in read_json_lines(path)]
    start = next(line for line in lines if line["loss"] == "start")
    trained = [line for line in lines if line["loss"] != "start"]
    epochs = list(trained[0]["epochs"])
    told = f"start: {start['accuracy']:.1%}; right samples: {start['right']:.1%}"
    print(told, file=sys.stderr)
    heads = [f"after {epoch}, %" for epoch in epochs]
    print(f"| loss | {' | '.join(heads)} | mean \\|log W\\| at the end | ESS |")
    print("| --- " * (len(epochs) + 3) + "|")
    names = sorted(
        {line["loss"] for line in trained},
        key=lambda name: (-_mean(trained, name, epochs[-1], "accuracy")[0], name),
    )
    for name in names:
        cells = []
        for epoch in epochs:
            mean, error = _mean(trained, name, epoch, "accuracy")
            cells.append(f"{100 * mean:.1f} ± {100 * error:.1f}")
        for key, form in (("log_w_abs_mean", ".1f"), ("ess_ratio", ".2f")):
            cells.append(format(_mean(trained, name, epochs[-1], key)[0], form))
        print(f"| {name} | {' | '.join(cells)} |")


def _mean(lines: Sequence[Any], name: str, epoch: str, key: str) -> tuple[float, float]:
    values = [line["epochs"][epoch][key] for line in lines if line["loss"] == name]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.fmean(values), error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="train, and append to --out")
    running.set_defaults(call=run)
    running.add_argument("run", type=Path, help="run folder with recorded samples")
    running.add_argument("--model", type=Path, required=True, help="that it started from")
    running.add_argument("--problems", type=Path, required=True, help="held out")
    running.add_argument("--out", type=Path, required=True, help="JSON lines")
    running.add_argument("--losses", nargs="+", default=list(POLICY_LOSS_NAMES))
    running.add_argument("--epochs", nargs="+", type=int, default=[1, 4, 16])
    running.add_argument("--seeds", type=int, default=4)
    running.add_argument("--group", type=int, default=8, help="samples of a group")
    running.add_argument("--learning-rate", type=float, default=4e-4)
    running.add_argument("--shard", default="0/1", help="PART/OF")
    table = commands.add_parser("table", help="print the table")
    table.set_defaults(call=print_table)
    table.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    sys.exit(main())
