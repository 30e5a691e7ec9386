"""OpenRLHF's experience maker: for batches of any size, and groups of which some do not count."""

from __future__ import annotations

import logging
from typing import Any

import ray
import torch
from openrlhf.models.utils import compute_reward
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties

from vespo_openrlhf.losses.advantages import group_advantages, group_std, whiten

# Advantages over the whole batch's mean and standard deviation.
_WHITENED = ("gae", "reinforce", "reinforce_baseline")

logger = logging.getLogger(__name__)


class ExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's, where a sample without action tokens counts for nothing.

    Every rank of a model gets as many forward batches as every other: OpenRLHF refuses a batch
    that has fewer than there are ranks, and models in parts (ZeRO-3) work on them together.
    """

    def make_experience(self, samples_list: list[Any]) -> list[Any]:
        self._num_batches = len(samples_list)
        experiences: list[Any] = super().make_experience(samples_list)
        return experiences

    def _dispatch_forward(self, group: Any, sync_condition: bool, **kwargs: Any) -> Any:
        ranks = len(group._actor_handlers) // group.duplicate_actors
        missing = -self._num_batches % ranks
        filled = {name: [*batches, *batches[-1:] * missing] for name, batches in kwargs.items()}
        return super()._dispatch_forward(group, sync_condition, **filled)

    def _flatten_results(self, refs: Any, duplicate_factor: int) -> list[Any]:
        results: list[Any] = super()._flatten_results(refs, duplicate_factor)
        return results[: self._num_batches]

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Any]) -> list[Any]:
        """As OpenRLHF's, by sample, with the samples of a group that count as the whole group.

        Length penalties, the baseline of the group, per-token KL, returns, and whitening over the
        batch where the estimator has it.
        """
        args, estimator = self.args, self.advantage_estimator
        for experience in experiences:
            dtype = torch.promote_types(experience.rewards.dtype, torch.float32)
            experience.rewards = experience.rewards.to(dtype)
        apply_length_penalties(experiences, args)

        rows = torch.tensor([index for experience in experiences for index in experience.index])
        shape = (-1, args.rollout.n_samples_per_prompt)
        in_order = rows.argsort()
        rewards = torch.cat([e.rewards for e in experiences])[in_order].reshape(shape)
        counted = torch.cat([e.action_mask.any(-1) for e in experiences])[in_order].reshape(shape)
        sizes = [len(experience.index) for experience in experiences]
        outcomes = group_advantages(rewards, counted, estimator)
        values = outcomes.flatten()[rows].split(sizes)
        if shape[1] > 1:
            stds = group_std(rewards, counted).flatten()[rows].split(sizes)
            for experience, std in zip(experiences, stds, strict=True):
                experience.info["group_reward_std"] = std

        for experience, value in zip(experiences, values, strict=True):
            mask = experience.action_mask
            per_token = compute_reward(
                value,
                self.kl_ctl.value,
                experience.kl,
                action_mask=mask,
                reward_clip_range=args.reward.clip_range,
            )
            gamma = self._gamma()
            if estimator == "gae":
                experience.advantages, experience.returns = self.get_advantages_and_returns(
                    experience.values, per_token, mask, gamma, args.algo.advantage.lambd
                )
            else:
                experience.returns = self.get_cumulative_returns(per_token, mask, gamma)
                experience.advantages = experience.returns.clone()
            experience.info["return"] = per_token.sum(dim=-1)
            experience.kl = None
        if estimator in _WHITENED:
            self._whiten(experiences)
        if estimator == "reinforce_baseline":
            # Upstream's whitening takes the batch's mean from a group of equal rewards, too: a push
            # on responses that say nothing, and `num_zero` would not count them.
            equal = (outcomes == 0).all(-1, keepdim=True).expand(shape).flatten()[rows]
            for experience, same in zip(experiences, equal.split(sizes), strict=True):
                nothing = same[:, None] & (experience.returns == 0)
                experience.advantages = experience.advantages.masked_fill(nothing, 0.0)
        return experiences

    def get_cumulative_returns(self, rewards: Any, action_mask: Any, gamma: float) -> Any:
        """OpenRLHF's; without a discount a sum, which needs no loop over the tokens."""
        if gamma != 1.0:
            return super().get_cumulative_returns(rewards, action_mask, gamma)
        return (rewards * action_mask).flip(-1).cumsum(-1).flip(-1)

    def _gamma(self) -> float:
        gamma: float = self.args.algo.advantage.gamma
        if gamma != 1.0 and self.advantage_estimator not in ("gae", "reinforce"):
            logger.warning("gamma is 1 with %s, not %g", self.advantage_estimator, gamma)
            gamma = self.args.algo.advantage.gamma = 1.0
        return gamma

    def _whiten(self, experiences: list[Any]) -> None:
        """Over the action tokens of all of them."""
        shapes = [experience.advantages.shape for experience in experiences]
        flat = torch.cat([experience.advantages.flatten().float() for experience in experiences])
        mask = torch.cat([experience.action_mask.flatten().bool() for experience in experiences])
        white = whiten(flat, mask, scale=not self.args.algo.advantage.no_std_norm)
        parts = white.split([shape.numel() for shape in shapes])
        for experience, part, shape in zip(experiences, parts, shapes, strict=True):
            experience.advantages = part.view(shape)


class ShortExperienceMaker(ExperienceMaker):
    """Fills in the engine's log-probs where the actor's recomputed ones would stand.

    One forward pass shorter, where nobody reads its result. So `old_log_probs` are those of the
    behaviour policy, and of OpenRLHF's metrics `ppo_kl` then measures all of the distance from it
    (lag, mismatch and the batch's own updates), while `vllm_kl`, engine against recomputation, is
    0 and says nothing.
    """

    def make_experience(self, samples_list: list[Any]) -> list[Any]:
        missing = sum(samples.rollout_log_probs is None for samples in samples_list)
        if missing:
            raise ValueError(
                f"{missing} of {len(samples_list)} sample batches carry no rollout log-probs: set "
                "--algo.advantage.is_correction_level token, or recompute the trainer's own with "
                "--vespo.recompute_old_log_probs"
            )
        self._rollout_log_probs = [samples.rollout_log_probs for samples in samples_list]
        return super().make_experience(samples_list)

    def _dispatch_forward(self, group: Any, sync_condition: bool, **kwargs: Any) -> Any:
        if group is not self.actor_model_group:
            return super()._dispatch_forward(group, sync_condition, **kwargs)
        # As the actors would answer: per data-parallel copy a list with one batch each.
        copies = self.args.ds.ring_attn_size * self.args.ds.tensor_parallel_size
        return ray.put([[batch] for batch in self._rollout_log_probs for _ in range(copies)])
