"""What a run says about its importance weights.

Losses return detached tensors that stay on the device; nothing here is called per micro-batch
but `sequence_metrics`. `summarise` is for the end of an optimizer step, over all its sequences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .inputs import LossInputs
from .ratios import masked_sum, sequence_advantage, sequence_log_weight

Metrics = dict[str, Tensor]

# Below this the sequence has practically no say in the gradient.
SMALL_PHI = 0.01
_QUANTILES = {"p05": 0.05, "p50": 0.50, "p95": 0.95}


def sequence_metrics(inputs: LossInputs, own: Metrics, anchor: str) -> Metrics:
    """A loss's metrics with the (B,) float32 ones that all losses have: `advantage`, `num_tokens`,
    `log_w` (of the sequence's importance weight, in nats) and `phi`.

    Args:
        inputs: the micro-batch.
        own: what the loss returned. `log_w` and `advantage` are its own where it has them. `phi`
            is the constant c of a loss -c A log pi, where it is one: (B,) of the sequence, or
            (B, A) by token, of which the mean over the sequence's action tokens is kept.
        anchor: whose log-probs log W starts from; where they are missing, there is no log W.
    """
    others = dict(own)
    log_w, phi, advantage = (others.pop(name, None) for name in ("log_w", "phi", "advantage"))
    reference = inputs.rollout_log_probs if anchor == "rollout" else inputs.old_log_probs
    if log_w is None and reference is not None:
        log_w = sequence_log_weight(inputs, anchor)
    if advantage is None:
        advantage = sequence_advantage(inputs)
    if phi is not None and phi.dim() == 2:
        phi = masked_sum(phi, inputs.mask) / inputs.num_tokens.clamp(min=1)
    metrics = {"advantage": advantage, "num_tokens": inputs.num_tokens, "log_w": log_w, "phi": phi}
    return {name: m.detach().float() for name, m in metrics.items() if m is not None} | others


@torch.no_grad()
def summarise(per_sequence: Mapping[str, Tensor]) -> Metrics:
    """Scalars that describe one optimizer step's sequences.

    - num_positive, num_negative, num_zero: sequences by the sign of the advantage.
    - log_w_mean, _max, _std (population), _abs_mean, _p05, _p50, _p95: nats.
    - ess_ratio: effective sample size (sum W)^2 / sum W^2 over the number of sequences, in
      (0, 1]; from log W, so that |log W| = 200 does not overflow. Of W itself, which only
      plain importance sampling uses: one large W ruins it, whatever the loss makes of it.
    - log_mean_w: log of the mean of W. E_mu[W] = 1, so it is 0 for an engine that reports
      the probabilities it samples from, up to chance. Samples rarely hold the few large W
      that the mean of a wide W rests on, so it is then below 0: read it where log_w_std is
      below 1 or so.
    - log1p_chi_square: log(1 + chi^2) = log of the mean of W^2, with chi^2 the chi-square
      divergence E_mu[W^2] - 1 of pi from mu. As a logarithm: chi^2 leaves float32 at
      log W = 44.
    - phi_mean, phi_max, phi_p05, _p50, _p95, phi_mean_positive, phi_mean_negative,
      phi_small_share (phi < 0.01).
    - phi_ess_ratio: effective sample size (sum phi |A|)^2 / sum (phi |A|)^2, over the number
      of sequences with A != 0, in [0, 1]: of the weights that the gradient has. On-policy it
      is that of |A| alone, which is 1 only where all advantages are equally large.
    - phi_balance: sum of phi A where A > 0 over sum of phi |A| where A < 0. 1 on-policy with
      a group's mean as baseline; what pushes up and what pushes down have parted elsewhere.
      nan without the latter.
    - experts_differ: share of layers of action tokens whose experts the trainer would have chosen
      otherwise than the engine, as a mean over sequences of which that is known.

    Args:
        per_sequence: (N,) tensors under the names of `sequence_metrics`, each the concatenation
            over the step's micro-batches. `advantage` and `num_tokens` are needed; `log_w`,
            `phi` and `experts_differ` are summarised where they are present; other names are left
            alone.

    Returns:
        0-dim float32 tensors on the same device. Sequences without action tokens are left out.
        A mean over no sequence is nan.
    """
    present = per_sequence["num_tokens"] > 0
    advantage = per_sequence["advantage"][present]
    summary: Metrics = {
        "num_positive": (advantage > 0).sum(),
        "num_negative": (advantage < 0).sum(),
        "num_zero": (advantage == 0).sum(),
    }
    if "log_w" in per_sequence:
        summary |= _summarise_log_weight(per_sequence["log_w"][present].double())
    if "phi" in per_sequence:
        summary |= _summarise_phi(per_sequence["phi"][present].double(), advantage.double())
    if "experts_differ" in per_sequence:
        differing = per_sequence["experts_differ"][present]
        summary["experts_differ"] = differing[differing.isfinite()].mean()
    return {name: value.float() for name, value in summary.items()}


@torch.no_grad()
def summarise_by_lag(per_sequence: Mapping[str, Tensor]) -> Metrics:
    """How the weights fare as samples age: a part of `summarise` for each range of lags.

    Args:
        per_sequence: as for `summarise`, with `log_w` and with `lag`, (N,): the age of each
            sequence's oldest token when it is used, in optimizer updates; one whose age is NaN is
            left out.

    Returns:
        0-dim tensors under `lag_0/`, `lag_1/`, `lag_2_3/`, `lag_4_7/` and so on by powers of two,
        for the ranges that occur: num_samples, log_w_mean, log_w_abs_mean, log_mean_w,
        ess_ratio, where there is a phi, phi_mean, phi_small_share and phi_ess_ratio, and where
        experts are replayed, experts_differ.
    """
    present = (per_sequence["num_tokens"] > 0) & per_sequence["lag"].isfinite()
    lag = per_sequence["lag"][present].long()
    # 0 -> 0, 1 -> 1, 2..3 -> 2, 4..7 -> 3: the number of binary digits.
    bins = torch.where(lag > 0, lag.clamp(min=1).double().log2().floor().long() + 1, 0)
    known = {
        name: per_sequence[name][present]
        for name in ("advantage", "num_tokens", "log_w", "phi", "experts_differ")
        if name in per_sequence
    }
    names = (
        *("log_w_mean", "log_w_abs_mean", "log_mean_w", "ess_ratio"),
        *("phi_mean", "phi_small_share", "phi_ess_ratio", "experts_differ"),
    )
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
    number = math.log(log_w.numel()) if log_w.numel() else math.nan
    log_mean_w = torch.logsumexp(log_w, 0) - number
    log_mean_w2 = torch.logsumexp(2 * log_w, 0) - number
    return {
        "log_w_mean": log_w.mean(),
        "log_w_max": _max(log_w),
        "log_w_std": (log_w - log_w.mean()).square().mean().sqrt(),
        "log_w_abs_mean": log_w.abs().mean(),
        "ess_ratio": (2 * log_mean_w - log_mean_w2).exp(),
        "log_mean_w": log_mean_w,
        "log1p_chi_square": log_mean_w2,
        **_quantiles("log_w", log_w),
    }


def _summarise_phi(phi: Tensor, advantage: Tensor) -> Metrics:
    positive, negative = advantage > 0, advantage < 0
    mass = phi * advantage.abs()
    # 0 / 0, of no sequence or of none that counts, is nan; so is what no mass stands against.
    against = torch.where(mass[negative].sum() > 0, mass[negative].sum(), torch.nan)
    return {
        "phi_mean": phi.mean(),
        "phi_max": _max(phi),
        **_quantiles("phi", phi),
        "phi_mean_positive": phi[positive].mean(),
        "phi_mean_negative": phi[negative].mean(),
        "phi_small_share": (phi < SMALL_PHI).double().mean(),
        "phi_ess_ratio": mass.sum() ** 2 / (mass**2).sum() / (advantage != 0).sum(),
        "phi_balance": mass[positive].sum() / against,
    }


def _max(values: Tensor) -> Tensor:
    return values.max() if values.numel() else values.new_tensor(torch.nan)


def _quantiles(name: str, values: Tensor) -> Metrics:
    keys = [f"{name}_{quantile}" for quantile in _QUANTILES]
    if not values.numel():  # which quantile refuses
        return dict.fromkeys(keys, values.new_tensor(torch.nan))
    found = torch.quantile(values, values.new_tensor(list(_QUANTILES.values())))
    return dict(zip(keys, found.unbind(), strict=True))
