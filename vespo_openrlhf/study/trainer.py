"""One run: sample, train on what is stale, evaluate. Plain torch, one thread, no cluster.

The loss is the very object the full stack calls, `losses.get_policy_loss`, on the same
`LossInputs`; the lag is counted by `scheduling.metrics.LagStatistics` on the scheduler's groups.
What is left out is what the study is not about: engines, queues, processes.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vespo_openrlhf.losses import LossInputs, PolicyLoss, get_policy_loss, summarise
from vespo_openrlhf.scheduling.groups import Batch, Group
from vespo_openrlhf.scheduling.ledger import Prompt
from vespo_openrlhf.scheduling.metrics import LagStatistics
from vespo_openrlhf.study.cells import Cell, Recipe
from vespo_openrlhf.study.tasks import Samples, get_task
from vespo_openrlhf.study.warm_start import Start

# Sequences whose log-probs are computed at once where there is no gradient.
_SCORED_AT_ONCE = 256
#: Bins of the histogram of log W, in nats; what lies outside counts in the outermost bin.
LOG_W_RANGE, LOG_W_BINS = (-8.0, 8.0), 160
# Recorded at each update: name -> name in `losses.summarise`.
_WEIGHT_METRICS = {
    "log_w_abs_mean": "log_w_abs_mean",
    "log_w_std": "log_w_std",
    "ess": "ess_ratio",
    "phi_mean": "phi_mean",
}


@dataclass(frozen=True)
class _Rollout:
    """A rollout batch, in the order of use: mini-batch j is rows j * M to (j + 1) * M of R.

    Attributes:
        index: batches before it.
        version: updates done when it was sampled.
        samples: R responses.
        advantages: (R,) reward minus the group's mean, over its standard deviation.
        rewards: (R,) 1 for a right answer.
    """

    index: int
    version: int
    samples: Samples
    advantages: Tensor
    rewards: Tensor


class Run:
    """A cell being run.

    Args:
        cell, recipe: which one.
        start: the warm start of the cell's seed; not changed.
    """

    def __init__(self, cell: Cell, recipe: Recipe, start: Start) -> None:
        self.cell, self.recipe = cell, recipe
        self.task = task = get_task(recipe.task)
        self.model = task.policy(recipe.width, recipe.layers, recipe.heads)
        self.model.load_state_dict(start.weights)
        self.loss: PolicyLoss = get_policy_loss(cell.loss.name, **cell.loss.options)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=cell.learning_rate, weight_decay=0.0, fused=True
        )
        self._prompts = task.encode_prompts(start.training)
        self._answers = task.encode_answers(start.training)
        self._held_out = task.encode_prompts(start.held_out), task.encode_answers(start.held_out)
        self._waiting: dict[int, _Rollout] = {}
        self._old_log_probs_RA: Tensor | None = None
        self._history: dict[str, list[float]] = {}
        self._histogram = torch.zeros(LOG_W_BINS)
        self._tokens_by_lag: dict[int, int] = {}
        self._skipped = 0

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            plain JSON: the cell and recipe; `evaluations`, (update, accuracy) pairs; `updates`,
            lists by update (reward, length and entropy of its mini-batch, log W and phi as
            `losses.summarise` has them, gradient norm before clipping); `log_w_histogram`;
            `lag`; `skipped` updates whose gradient was not finite; `seconds` on the clock and
            `cpu_seconds` of the processor.
        """
        started = time.perf_counter(), time.process_time()
        n = self.cell.updates_per_batch
        evaluations = []
        for update in range(self.recipe.updates + 1):
            if update % self.recipe.evaluate_every == 0:
                evaluations.append((update, self._evaluate(update)))
            self._sample_due(update)
            if update < self.recipe.updates:
                rollout = self._waiting[update // n]
                if update % n == 0 and self.loss.reads_old_log_probs:
                    self._old_log_probs_RA = self._recompute(rollout)
                self._update(rollout, update)
                if (update + 1) % n == 0:
                    del self._waiting[update // n]
        tokens = sum(self._tokens_by_lag.values())
        return {
            "cell": asdict(self.cell),
            "recipe": asdict(self.recipe),
            "evaluations": evaluations,
            "updates": self._history,
            "log_w_histogram": [int(count) for count in self._histogram],
            "lag": {
                "max": max(self._tokens_by_lag),
                "mean": sum(lag * count for lag, count in self._tokens_by_lag.items()) / tokens,
            },
            "skipped": self._skipped,
            "seconds": round(time.perf_counter() - started[0], 2),
            "cpu_seconds": round(time.process_time() - started[1], 2),
        }

    def _generator(self, *purpose: int) -> torch.Generator:
        """Draws that depend on the seed and the purpose alone: the same for every loss."""
        seed = 1 + self.cell.seed
        for number in purpose:
            seed = seed * 1_000_003 + number
        device = torch.get_default_device()  # the CPU, but for scripts/gpu_check.py
        return torch.Generator(device).manual_seed(seed % (2**63))

    def _evaluate(self, update: int) -> float:
        prompts, answers = self._held_out
        samples = self.model.sample(prompts, self._generator(1, update))
        return round(float(self.task.is_right(samples.responses, answers).float().mean()), 6)

    def _sample_due(self, version: int) -> None:
        """Sample every rollout batch whose weights are those of `version`."""
        n, lag = self.cell.updates_per_batch, self.cell.lag
        batches = -(-self.recipe.updates // n)
        first = 0 if version == 0 else -(-(version + lag) // n)
        for index in range(first, batches):
            sampled_at = max(0, index * n - lag)
            if sampled_at > version:
                break
            if sampled_at == version:
                self._waiting[index] = self._sample(index, version)

    def _sample(self, index: int, version: int) -> _Rollout:
        recipe, n = self.recipe, self.cell.updates_per_batch
        groups = slice(
            index * n * recipe.groups_per_update,
            min((index + 1) * n, recipe.updates) * recipe.groups_per_update,
        )
        prompts = self._prompts[groups].repeat_interleave(recipe.group_size, dim=0)
        answers = self._answers[groups].repeat_interleave(recipe.group_size, dim=0)
        sampler = self.model
        if self.cell.sampler_dtype != "float32":
            sampler = copy.deepcopy(self.model).to(getattr(torch, self.cell.sampler_dtype))
        generator = self._generator(2, index)
        samples: Samples = sampler.sample(prompts, generator, logit_noise=self.cell.engine_noise)
        if self.cell.mu_noise:
            noise = torch.randn(samples.log_probs.shape, generator=self._generator(3, index))
            noisy = samples.log_probs + self.cell.mu_noise * noise
            samples = replace(samples, log_probs=noisy.where(samples.mask, 0.0))
        rewards = self.task.is_right(samples.responses, answers).float()
        grouped = rewards.view(-1, recipe.group_size)
        spread = grouped.std(dim=1, keepdim=True)
        advantages = (grouped - grouped.mean(dim=1, keepdim=True)) / (spread + 1e-9)
        rollout = _Rollout(index, version, samples, advantages.flatten(), rewards)
        self._count_lag(rollout)
        return rollout

    def _count_lag(self, rollout: _Rollout) -> None:
        """The scheduler's own count, on its own groups."""
        recipe = self.recipe
        lengths = rollout.samples.mask.sum(dim=1).view(-1, recipe.group_size).tolist()
        rewards = rollout.rewards.view(-1, recipe.group_size).tolist()
        first = rollout.index * self.cell.updates_per_batch
        groups = []
        for number, (tokens, scores) in enumerate(zip(lengths, rewards, strict=True)):
            group = Group(
                ticket=number,
                prompt=Prompt(rollout.index, number, "addition"),
                samples=recipe.group_size,
                engine="sampler",
                version=rollout.version,
                lag=self.cell.lag + self.cell.updates_per_batch - 1,
                waited_for=True,
                dispatched_at=0.0,
            )
            for sample, (count, score) in enumerate(zip(tokens, scores, strict=True)):
                group.generate(sample, [(rollout.version, count)], rollout.version, None, 0.0)
                group.settle(sample, score)
            groups.append(group)
        batch = Batch.of(rollout.index, first, groups, recipe.groups_per_update)
        for lag, count in LagStatistics.of(batch).tokens.items():
            self._tokens_by_lag[lag] = self._tokens_by_lag.get(lag, 0) + count

    @torch.no_grad()
    def _recompute(self, rollout: _Rollout) -> Tensor:
        """(R, A) log-probs under the weights that the batch's first update finds."""
        parts = rollout.samples.ids.split(_SCORED_AT_ONCE)
        return torch.cat([self.model.log_probs(ids_BT) for ids_BT in parts])

    def _update(self, rollout: _Rollout, update: int) -> None:
        size = self.recipe.groups_per_update * self.recipe.group_size
        start = (update - rollout.index * self.cell.updates_per_batch) * size
        rows = slice(start, start + size)
        samples = rollout.samples.rows(rows)
        mask = samples.mask
        # Positions that no response of the mini-batch reaches are not computed.
        used = int(mask.any(dim=0).sum())
        prompt = samples.ids.shape[1] - mask.shape[1]
        log_probs = self.model.log_probs(samples.ids[:, : prompt + used])
        mask, mu = mask[:, :used], samples.log_probs[:, :used]
        old = self._old_log_probs_RA
        inputs = LossInputs(
            log_probs=log_probs,
            old_log_probs=None if old is None else old[rows, :used],
            advantages=rollout.advantages[rows],
            action_mask=mask,
            rollout_log_probs=mu,
        )
        loss, metrics = self.loss(self.loss.with_own_statistics(inputs))
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        if torch.isfinite(norm):
            if self.loss.step_scale is not None:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.cell.learning_rate * float(self.loss.step_scale(metrics))
            self.optimizer.step()
        else:
            self._skipped += 1
        self._record(rollout, rows, metrics, float(norm))

    def _record(
        self, rollout: _Rollout, rows: slice, metrics: dict[str, Tensor], norm: float
    ) -> None:
        samples = rollout.samples.rows(rows)
        tokens = samples.mask.sum()
        values = {
            "reward": float(rollout.rewards[rows].mean()),
            "length": float(tokens / len(samples.ids)),
            "entropy": float(samples.entropy.sum() / tokens),
            "gradient_norm": norm,
        }
        summary = summarise(metrics)
        values |= {
            name: float(summary[key]) for name, key in _WEIGHT_METRICS.items() if key in summary
        }
        for name, value in values.items():
            self._history.setdefault(name, []).append(float(f"{value:.5g}"))
        low, high = LOG_W_RANGE
        self._histogram += torch.histc(
            metrics["log_w"].clamp(low, high), LOG_W_BINS, min=low, max=high
        )


def run_cell(cell: Cell, recipe: Recipe, start: Start) -> dict[str, Any]:
    """Run one cell from the warm start of its seed; see `Run.run`."""
    return Run(cell, recipe, start).run()
