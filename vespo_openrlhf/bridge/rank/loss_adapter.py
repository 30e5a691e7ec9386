"""A policy loss in the shape OpenRLHF calls: its arguments in, its five results out."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from vespo_openrlhf.bridge.rank.sample_metrics import gather
from vespo_openrlhf.bridge.seams import LOSS_RESULTS
from vespo_openrlhf.losses.diagnostics import summarise, summarise_by_lag
from vespo_openrlhf.losses.distillation import (
    DistillOptions,
    distillation_metrics,
    distilled_advantages,
    exact_reverse_kl,
)
from vespo_openrlhf.losses.inputs import LossInputs, masked_mean
from vespo_openrlhf.losses.registry import PolicyLoss
from vespo_openrlhf.losses.turns import split_turns

# The prefix of metrics of a micro-batch as a whole.
_OF_ALL = "micro_batch/"
_STEP_SCALE = f"{_OF_ALL}step_scale"
# Mean |log W| of a sample at lag 0 above which the engine, not the lag, decides what phi does.
_MISMATCH_WARNING = 0.5

#: Asked in a call of the loss: (B, A) KL to the teacher at each position, with a gradient, where
#: its whole distribution is compared, and its log-probs of the sampled tokens.
Teacher: TypeAlias = "Callable[[], tuple[torch.Tensor | None, torch.Tensor]]"

logger = logging.getLogger(__name__)


class PolicyLossAdapter:
    """Stands where OpenRLHF's `PolicyLoss` stood, and keeps what the loss measured.

    Measurements stay on the device as they are made, one set per micro-batch; `drain` turns them
    into metrics once, when the optimizer steps of a rollout batch are done.

    Args:
        loss: the policy loss.
        data_ranks: the ranks that train other samples than this one; see `sample_metrics.gather`.
        distillation: from the teacher whose log-probs are noted, or, where none are, from the
            policy that sampled.
    """

    def __init__(
        self,
        loss: PolicyLoss,
        data_ranks: torch.distributed.ProcessGroup | None = None,
        distillation: DistillOptions | None = None,
    ) -> None:
        self._distillation = distillation
        self._teacher: Teacher | None = None
        # A user's own loss is named by where it is found; its metrics by the function alone.
        self.name = loss.name.rpartition(":")[2]
        self._loss = loss
        self._data_ranks = data_ranks
        self._measured: list[dict[str, torch.Tensor]] = []
        self._noted: dict[str, torch.Tensor] = {}
        self._turns: torch.Tensor | None = None
        self._update = 0
        self._first_of_update = 0
        # Of the last update and of the one being made, for a loss with batch statistics.
        self._statistics: torch.Tensor | None = None
        self._own_statistics: torch.Tensor | None = None
        self._drained: dict[str, torch.Tensor] = {}

    def note(
        self,
        *,
        turns: torch.Tensor | None = None,
        teacher: Teacher | None = None,
        **per_sample: torch.Tensor,
    ) -> None:
        """(B,) facts about the samples of the next call, `lag` say, to be kept beside them.

        Args:
            turns: (B, A), see `split_turns`: the loss is then given a row for each turn, and what
                is measured by sequence is so by turn, with the facts of its sample.
            teacher: of a model that is one.
        """
        self._noted, self._turns, self._teacher = per_sample, turns, teacher

    def __call__(
        self,
        log_probs: torch.Tensor,
        old_log_probs: torch.Tensor,
        advantages: torch.Tensor,
        action_mask: torch.Tensor,
        rollout_log_probs: torch.Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: torch.Tensor | None = None,
        global_batch_size: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """OpenRLHF's call; every tensor is (B, A). Returns `seams.LOSS_RESULTS`, each 0-dim.

        A sample with a rollout log-prob that is not finite has no importance weight: it is left
        out of the loss (not of its normalisation) and counted.

        Raises:
            ValueError: from the loss; where it misses the rollout log-probs, with the flag that
                brings them.
        """
        num_dropped = torch.zeros((), device=log_probs.device)
        if rollout_log_probs is not None:
            unusable = (action_mask.bool() & ~rollout_log_probs.isfinite()).any(-1)
            action_mask = action_mask.bool() & ~unusable[:, None]
            num_dropped = unusable.sum().float()
        distilled: dict[str, torch.Tensor] = {}
        kl, teacher = None, log_probs
        if self._distillation is not None:
            if self._teacher is not None:
                kl, teacher = self._teacher()
            else:
                assert rollout_log_probs is not None, "no teacher's log-probs"
                teacher = rollout_log_probs
            advantages = distilled_advantages(advantages, log_probs, teacher, self._distillation)
            distilled = distillation_metrics(
                log_probs, teacher, action_mask, None if kl is None else kl.detach()
            )
        inputs = LossInputs(
            log_probs=log_probs,
            old_log_probs=old_log_probs,
            advantages=advantages,
            action_mask=action_mask,
            rollout_log_probs=rollout_log_probs,
            dp_size=dp_size,
            batch_num_tokens=batch_num_tokens,
            global_batch_size=global_batch_size,
        )
        rows = inputs
        if self._turns is not None:
            rows, episode = split_turns(inputs, self._turns)
            self._noted = {name: fact[episode] for name, fact in self._noted.items()}
        try:
            loss, metrics = self._loss(self._with_statistics(rows))
        except ValueError as error:
            if rollout_log_probs is not None:
                raise
            raise ValueError(
                f"{error}: set --algo.advantage.is_correction_level token, which makes the engine "
                "report them"
            ) from error
        if self._distillation is not None and kl is not None:
            if "phi" not in metrics:
                raise ValueError(
                    f"--distill.estimator full: {self.name} tells no phi to weigh the KL by"
                )
            # One of a user's own is normalised as most are, unless it says.
            mode = str(self._loss.options.get("loss_agg_mode", "token-mean"))
            gap, coef = (teacher - log_probs).detach(), self._distillation.coef
            loss = loss + exact_reverse_kl(inputs, metrics["phi"], kl, gap, coef, mode)
        self._keep(metrics | distilled, num_dropped)
        zero = torch.zeros((), device=log_probs.device)
        results: dict[str, torch.Tensor | None] = {
            "loss": loss,
            "clip_ratio": metrics.get("clip_ratio", zero),
            "ppo_kl": masked_mean(old_log_probs - log_probs.detach(), inputs.mask),
            "vllm_kl": None,
            "is_filter_ratio": None,
        }
        if rollout_log_probs is not None:
            results["vllm_kl"] = masked_mean(rollout_log_probs - old_log_probs, inputs.mask)
            results["is_filter_ratio"] = metrics.get("is_filter_ratio", zero)
        return tuple(results[name] for name in LOSS_RESULTS)

    def _keep(self, metrics: dict[str, torch.Tensor], num_dropped: torch.Tensor) -> None:
        """Set aside what the loss measured of a micro-batch, by sequence and of all of it."""
        update = torch.full_like(metrics["num_tokens"], self._update)
        by_sequence = {
            name: value
            for name, value in (metrics | self._noted | {"update": update}).items()
            if value.shape == update.shape
        }
        of_all = {name: value for name, value in metrics.items() if not value.dim()} | {
            "num_tokens": metrics["num_tokens"].sum(),
            "num_dropped": num_dropped,
            "update": torch.full_like(num_dropped, self._update),
        }
        if self._loss.step_scale is not None:
            of_all["step_scale"] = torch.ones_like(num_dropped)  # until the update's end says
        self._measured.append(by_sequence | {f"{_OF_ALL}{n}": v for n, v in of_all.items()})
        self._noted, self._turns, self._teacher = {}, None, None

    def _with_statistics(self, inputs: LossInputs) -> LossInputs:
        """For a loss with batch statistics: those of the update before.

        An update's own are complete only after its last micro-batch, when the gradients of all
        the others are there. Those of the update before are the same for every micro-batch and
        rank, one step of drift late; a run's first update has zeros, an update without tokens.
        One whose own are not finite (it is left out) leaves those before it in place.
        """
        if self._loss.statistics is None:
            return inputs
        own = self._loss.statistics(inputs)
        self._own_statistics = own if self._own_statistics is None else self._own_statistics + own
        if self._statistics is None:
            self._statistics = torch.zeros_like(own)
        return dataclasses.replace(inputs, statistics=self._statistics)

    def step_scale(self) -> float:
        """What the learning rate of the update is to be multiplied with: 1, unless the loss says.

        And 1 where what it says is not finite, as of an update that is then left out: a learning
        rate that is no number would not be told from the schedule's next one afterwards, and stay.

        To be asked by all data-parallel ranks after the backward pass of the update's last
        micro-batch.
        """
        if self._loss.step_scale is None:
            return 1.0
        update = self._measured[self._first_of_update :]
        names = [name for name in update[0] if not name.startswith(_OF_ALL)]
        local = {name: torch.cat([m[name].cpu() for m in update]) for name in names}
        scale = self._loss.step_scale(gather(local, self._data_ranks)).item()
        for measured in update:
            measured[_STEP_SCALE] = torch.full_like(measured[_STEP_SCALE], scale)
        return scale if math.isfinite(scale) else 1.0

    def end_update(self) -> None:
        """An optimizer step was taken; what comes next belongs to the next one."""
        self._update += 1
        self._first_of_update = len(self._measured)
        if self._own_statistics is not None:
            if torch.distributed.is_initialized():
                torch.distributed.all_reduce(self._own_statistics, group=self._data_ranks)
            own, self._own_statistics = self._own_statistics, None
            assert self._statistics is not None  # set where they are first made
            self._statistics = torch.where(own.isfinite().all(), own, self._statistics)

    def drain(self) -> dict[str, float]:
        """Metrics over every sequence seen since the last call, of all data-parallel ranks.

        Beside `summarise`'s: where |log W| comes from. `log_w_abs_mean_before` is that of the
        first update's sequences, which had not yet drifted within the batch: lag and engine
        mismatch. `log_w_abs_mean_drift` is what the batch's own updates added on average. Where
        lags are noted, the same by lag, in `lag_0/`, `lag_1/`, `lag_2_3/`, `lag_4_7/` and so on:
        on samples at lag 0, log W is engine mismatch alone, and much of it is warned of.

        Raises:
            RuntimeError: the loss was not called: OpenRLHF trained with another one.
        """
        if not self._measured:
            raise RuntimeError(
                f"the {self.name} loss is in place but was not called: OpenRLHF has moved the "
                "policy-loss seam (ActorPPOTrainer.actor_loss_fn)"
            )
        gathered = self._drained = gather(self._taken_off(), self._data_ranks)
        summary = self._summary(gathered)
        if "log_w" in gathered:
            summary |= _sources(gathered)
        if "log_w" in gathered and "lag" in gathered:
            by_lag = summarise_by_lag(gathered)
            summary |= by_lag
            mismatch = by_lag.get("lag_0/log_w_abs_mean")
            if mismatch is not None and mismatch > _MISMATCH_WARNING and _rank() == 0:
                anchor = self._loss.options.get("anchor")
                logger.warning(_mismatch_advice(mismatch.item(), gathered, anchor))
        return {f"{self.name}/{name}": value.item() for name, value in summary.items()}

    def by_update(self) -> list[dict[str, float]]:
        """`summarise`'s part of what `drain` has returned last, for each of its updates in order.

        A sequence's log W is that of its own update, so the batch's mean over sequences is the
        mean of these, as far as updates have equally many.
        """
        updates = int(self._drained[f"{_OF_ALL}update"].max()) + 1
        parts: list[dict[str, torch.Tensor]] = [{} for _ in range(updates)]
        for prefix in ("", _OF_ALL):  # by sequence, then by micro-batch
            update = self._drained[f"{prefix}update"].long()
            order = update.argsort(stable=True)
            sizes = torch.bincount(update, minlength=updates).tolist()
            for name, values in self._drained.items():
                if name.startswith(_OF_ALL) == bool(prefix):
                    for part, chosen in zip(parts, values[order].split(sizes), strict=True):
                        part[name] = chosen
        return [
            {f"{self.name}/{name}": value.item() for name, value in self._summary(part).items()}
            for part in parts
        ]

    @staticmethod
    def _summary(gathered: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A mean over micro-batches leaves out those without an action token."""
        of_all = {
            name.removeprefix(_OF_ALL): values
            for name, values in gathered.items()
            if name.startswith(_OF_ALL)
        }
        counted = of_all.pop("num_tokens") > 0
        dropped = of_all.pop("num_dropped").sum()
        of_all.pop("update")
        means = {name: values[counted].mean() for name, values in of_all.items()}
        return summarise(gathered) | means | {"num_dropped": dropped}

    def _taken_off(self) -> dict[str, torch.Tensor]:
        """What was measured, (N,) float32 each: by sequence, or by micro-batch. The
        one transfer from the device."""
        measured, self._measured = self._measured, []
        self._update = self._first_of_update = 0
        device = measured[0]["num_tokens"].device
        joined = {
            name: torch.cat([m[name].reshape(-1).to(device, torch.float32) for m in measured])
            for name in measured[0]
        }
        sizes = [len(values) for values in joined.values()]
        return dict(zip(joined, torch.cat(list(joined.values())).cpu().split(sizes), strict=True))


def _sources(gathered: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    present = gathered["num_tokens"] > 0
    size = gathered["log_w"].abs()
    before = size[present & (gathered["update"] == 0)].mean()
    return {
        "log_w_abs_mean_before": before,
        "log_w_abs_mean_drift": size[present].mean() - before,
    }


def _mismatch_advice(size: float, gathered: Mapping[str, torch.Tensor], anchor: object) -> str:
    """What a weight other than 1 on samples at lag 0 costs, and what to do about it."""
    fresh = (gathered["num_tokens"] > 0) & (gathered["lag"] <= 0)
    spread = gathered["log_w"][fresh].double().var(correction=0)
    found = f"mean |log W| is {size:.2f} on samples at lag 0"
    if anchor == "old":
        return (
            f"{found}: the trainer's own two passes over the same tokens disagree. Look for "
            "dropout, a router that is not deterministic, or packing that lets sequences see one "
            "another"
        )
    cost = ""
    if "phi" in gathered:
        phi, advantage = gathered["phi"][fresh], gathered["advantage"][fresh]
        shares = [phi[chosen].mean() for chosen in (advantage >= 0, advantage < 0)]
        cost = "; phi, 1 without it, is {:.2f} where A >= 0 and {:.2f} where A < 0".format(*shares)
    return (
        f"{found}, with variance {spread:.2f} (T s^2 of docs/choosing-n-and-lag.md): the engine "
        "and the trainer disagree on the same weights, and W measures that instead of staleness"
        f"{cost}. Check that both use the same element type, temperature and chat template, and "
        "that the engine holds the current weights; a mixture of experts may route differently in "
        "the two, which --moe.routing_replay engine ends. In synchronous training "
        "--vespo.anchor old leaves the disagreement out of W; in asynchronous training nothing "
        "else knows the lag, and what helps is an engine closer to the trainer"
    )


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
