"""What a run says about its importance weights.

Losses return detached tensors that stay on the device; nothing here is called per micro-batch
but `sequence_metrics`. `summarise` is for the end of an optimizer step, over all its sequences.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .inputs import LossInputs
from .ratios import sequence_advantage

Metrics = dict[str, Tensor]

# Below this the sequence has practically no say in the gradient.
SMALL_PHI = 0.01
_QUANTILES = {"p05": 0.05, "p50": 0.50, "p95": 0.95}


def sequence_metrics(
    inputs: LossInputs,
    *,
    log_w: Tensor | None = None,
    phi: Tensor | None = None,
    advantage: Tensor | None = None,
) -> Metrics:
    """The (B,) float32 metrics every loss returns: advantage, num_tokens, and what it knows.

    Args:
        inputs: the micro-batch.
        log_w: (B,) log of the sequence's importance weight, where the loss has an anchor.
        phi: (B,) coefficient of the sequence, where the loss has one.
        advantage: (B,) sequence advantages, where the loss computed them already.
    """
    if advantage is None:
        advantage = sequence_advantage(inputs)
    metrics = {"advantage": advantage, "num_tokens": inputs.num_tokens, "log_w": log_w, "phi": phi}
    return {name: m.detach().float() for name, m in metrics.items() if m is not None}


@torch.no_grad()
def summarise(per_sequence: Mapping[str, Tensor]) -> Metrics:
    """Scalars that describe one optimizer step's sequences.

    Args:
        per_sequence: (N,) tensors under the names of `sequence_metrics`, each the concatenation
            over the step's micro-batches. `advantage` and `num_tokens` are needed; `log_w` and
            `phi` are summarised where they are present; other names are left alone.

    Returns:
        0-dim float32 tensors on the same device. Sequences without action tokens are left out.
        A mean over no sequence is nan.

        - num_positive, num_negative, num_zero: sequences by the sign of the advantage.
        - log_w_mean, _max, _std (population), _abs_mean, _p05, _p50, _p95: nats.
        - ess_ratio: effective sample size (sum W)^2 / sum W^2 over the number of sequences, in
          (0, 1]; from log W, so that |log W| = 200 does not overflow.
        - phi_mean, phi_max, phi_p05, _p50, _p95, phi_mean_positive, phi_mean_negative,
          phi_small_share (phi < 0.01).
    """
    present = per_sequence["num_tokens"] > 0
    advantage = per_sequence["advantage"][present]
    positive, negative = advantage > 0, advantage < 0
    summary: Metrics = {
        "num_positive": positive.sum(),
        "num_negative": negative.sum(),
        "num_zero": (advantage == 0).sum(),
    }
    if "log_w" in per_sequence:
        summary |= _summarise_log_weight(per_sequence["log_w"][present].double())
    if "phi" in per_sequence:
        phi = per_sequence["phi"][present]
        summary |= {
            "phi_mean": phi.mean(),
            "phi_max": phi.max() if phi.numel() else phi.new_tensor(torch.nan),
            **_quantiles("phi", phi),
            "phi_mean_positive": phi[positive].mean(),
            "phi_mean_negative": phi[negative].mean(),
            "phi_small_share": (phi < SMALL_PHI).float().mean(),
        }
    return {name: value.float() for name, value in summary.items()}


@torch.no_grad()
def summarise_by_lag(per_sequence: Mapping[str, Tensor]) -> Metrics:
    """How the weights fare as samples age: a part of `summarise` for each range of lags.

    Args:
        per_sequence: as for `summarise`, with `log_w` and with `lag`, (N,): the age of each
            sequence's oldest token when it is used, in optimizer updates.

    Returns:
        0-dim tensors under `lag_0/`, `lag_1/`, `lag_2_3/`, `lag_4_7/` and so on by powers of two,
        for the ranges that occur: num_samples, log_w_mean, log_w_abs_mean, ess_ratio, and where
        there is a phi, phi_mean and phi_small_share.
    """
    present = per_sequence["num_tokens"] > 0
    lag = per_sequence["lag"][present].long()
    # 0 -> 0, 1 -> 1, 2..3 -> 2, 4..7 -> 3: the number of binary digits.
    bins = torch.where(lag > 0, lag.clamp(min=1).double().log2().floor().long() + 1, 0)
    known = {
        name: per_sequence[name][present]
        for name in ("advantage", "num_tokens", "log_w", "phi")
        if name in per_sequence
    }
    names = ("log_w_mean", "log_w_abs_mean", "ess_ratio", "phi_mean", "phi_small_share")
    summary: Metrics = {}
    for index in bins.unique().tolist():
        chosen = bins == index
        part = summarise({name: value[chosen] for name, value in known.items()})
        prefix = _lag_range(index)
        summary[f"{prefix}/num_samples"] = chosen.sum().float()
        summary |= {f"{prefix}/{name}": part[name] for name in names if name in part}
    return summary


def _lag_range(index: int) -> str:
    if index < 2:
        return f"lag_{index}"
    return f"lag_{2 ** (index - 1)}_{2**index - 1}"


def _summarise_log_weight(log_w: Tensor) -> Metrics:
    if not log_w.numel():  # max refuses an empty tensor
        nan = log_w.new_tensor(torch.nan)
        names = ("log_w_mean", "log_w_max", "log_w_std", "log_w_abs_mean", "ess_ratio")
        return dict.fromkeys(names, nan) | _quantiles("log_w", log_w)
    log_ess = 2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0)
    return {
        "log_w_mean": log_w.mean(),
        "log_w_max": log_w.max(),
        "log_w_std": log_w.std(correction=0),
        "log_w_abs_mean": log_w.abs().mean(),
        "ess_ratio": log_ess.exp() / log_w.numel(),
        **_quantiles("log_w", log_w),
    }


def _quantiles(name: str, values: Tensor) -> Metrics:
    keys = [f"{name}_{quantile}" for quantile in _QUANTILES]
    if not values.numel():  # which quantile refuses
        return dict.fromkeys(keys, values.new_tensor(torch.nan))
    found = torch.quantile(values, values.new_tensor(list(_QUANTILES.values())))
    return dict(zip(keys, found.unbind(), strict=True))
