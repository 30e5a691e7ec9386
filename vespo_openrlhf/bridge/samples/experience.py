"""OpenRLHF's experience maker: for batches of any size, and groups of which some do not count."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
import torch
from openrlhf.models.utils import compute_approx_kl, compute_reward, masked_mean
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties

from vespo_openrlhf.bridge.samples.turns import rewards_of_turns, turn_of_token
from vespo_openrlhf.bridge.wire import RoutedExperts
from vespo_openrlhf.losses.advantages import (
    group_advantages,
    group_std,
    turn_advantages,
    whiten,
)
from vespo_openrlhf.recorded.schema import Turns

# Advantages over the whole batch's mean and standard deviation.
_WHITENED = ("gae", "reinforce", "reinforce_baseline")

logger = logging.getLogger(__name__)


class ExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's, where a sample without action tokens counts for nothing.

    Args:
        args: OpenRLHF's.
        recomputes: ask the actor for the log-probs of its samples, as OpenRLHF always does.
            Otherwise the engine's stand in their place, one forward pass shorter, where nobody
            reads the actor's. `old_log_probs` are then those of the behaviour policy: OpenRLHF's
            metric `ppo_kl` measures all of the distance from it (lag, mismatch and the batch's
            own updates), while `vllm_kl`, engine against recomputation, is 0 and says nothing.
        teaches: the reference model is a teacher, whose log-probs are for the loss.
        teaches_fully: it tells hidden states in their place, for its whole distribution.
    """

    def __init__(
        self,
        *args: Any,
        recomputes: bool = True,
        teaches: bool = False,
        teaches_fully: bool = False,
    ) -> None:
        super().__init__(*args)
        self._recomputes = recomputes
        self._teaches = teaches
        self._teaches_fully = teaches_fully
        #: By sample of the next batch, for the policy's forward pass; None: its router chooses.
        self.routed_experts: Sequence[RoutedExperts] | None = None
        #: (A, E) by sample of the last batch, where the teacher tells its hidden states.
        self.teacher_states: list[Any] | None = None
        #: By sample of the next batch, where each turn has its own advantage; None: the episode's.
        self.turns: Sequence[Turns] | None = None

    @torch.no_grad()
    def make_experience(self, samples_list: list[Any]) -> list[Any]:
        """Log-probs, values and KL of each batch, and rewards where a model gives them.

        In the place of OpenRLHF's, which cannot do without the actor's forward pass.

        Raises:
            ValueError: log-probs or rewards are missing.
        """
        missing = sum(samples.rollout_log_probs is None for samples in samples_list)
        if missing and not self._recomputes:
            raise ValueError(
                f"{missing} of {len(samples_list)} sample batches carry no rollout log-probs: set "
                "--algo.advantage.is_correction_level token, or recompute the trainer's own with "
                "--vespo.recompute_old_log_probs"
            )
        answers = self._ask_models(samples_list)
        self.teacher_states = None
        if self._teaches_fully:
            self.teacher_states = [None] * sum(len(samples.index) for samples in samples_list)
            told = answers.pop("reference_log_probs")  # hidden states
            for samples, states in zip(samples_list, told, strict=False):
                for row, index in zip(states, samples.index, strict=True):
                    self.teacher_states[index] = row
        for index, samples in enumerate(samples_list):
            answer = {name: batches[index] for name, batches in answers.items()}
            if "rewards" in answer:
                samples.rewards = samples.info["reward"] = answer["rewards"]
            samples.action_log_probs = answer.get("log_probs", samples.rollout_log_probs)
            samples.values = answer.get("values")
            self._compare(samples, answer.get("reference_log_probs"))
        return samples_list

    @torch.no_grad()
    def policy_log_probs(self, samples: Sequence[Any]) -> list[Any]:
        """(T - 1,) float32 arrays: the policy's log-probs of each sample's tokens but the first, at
        its present weights; 0 where none was sampled.

        Args:
            samples: batches of one.
        """
        plain = [
            Experience(
                sequences=sample.sequences,
                attention_mask=sample.attention_mask,
                action_mask=sample.action_mask,
                total_length=sample.total_length,
                info={},
            )
            for sample in samples
        ]
        batches = self.split_rollout_samples(plain)
        train, ds = self.args.train, self.args.ds
        answers = self._dispatch_forward(
            self.actor_model_group,
            train.colocate_all or train.colocate_actor_ref,
            sequences=[batch.sequences for batch in batches],
            action_mask=[batch.action_mask for batch in batches],
            attention_mask=[batch.attention_mask for batch in batches],
        )
        found: list[Any] = [None] * len(samples)
        parts = self._flatten_results(answers, ds.ring_attn_size * ds.tensor_parallel_size)
        for batch, part in zip(batches, parts, strict=False):  # the last may be there again
            for index, row in zip(batch.index, part, strict=True):
                found[index] = row[: samples[index].action_mask.shape[1]].float().numpy()
        return found

    def _ask_models(self, samples_list: list[Any]) -> dict[str, list[torch.Tensor]]:
        """What each model of the run answers to each batch, by name. All work at once, but for
        those that share a GPU: these take turns."""
        train = self.args.train
        names = ("sequences", "action_mask", "attention_mask")
        batches = {name: [getattr(samples, name) for samples in samples_list] for name in names}
        seen = dict(batches)  # by models that take images
        if any(samples.mm_train_inputs for samples in samples_list):
            seen["mm_train_inputs_list"] = [samples.mm_train_inputs for samples in samples_list]
        asked = {}
        if samples_list[0].rewards is None:
            if self.reward_model_group is None:
                raise ValueError("the samples have no rewards, and there is no reward model")
            whole = {name: batches[name] for name in ("sequences", "attention_mask")}
            whole["pad_sequence"] = [True] * len(samples_list)
            asked["rewards"] = self._dispatch_forward(
                self.reward_model_group, train.colocate_all, **whole
            )
        policy_waits = train.colocate_all or train.colocate_actor_ref
        if self._recomputes:
            replayed = {}
            if (experts := self.routed_experts) is not None:
                replayed["routed_experts"] = [[experts[i] for i in s.index] for s in samples_list]
            asked["log_probs"] = self._dispatch_forward(
                self.actor_model_group, policy_waits, **seen, **replayed
            )
        if self.critic_model_group is not None:
            if train.colocate_critic_reward and "rewards" in asked:
                ray.get(asked["rewards"])
                ray.get(self.reward_model_group.async_run_method("empty_cache"))
            asked["values"] = self._dispatch_forward(
                self.critic_model_group,
                train.colocate_all or train.colocate_critic_reward,
                **batches,
            )
        if self.initial_model_group is not None:
            asked["reference_log_probs"] = self._dispatch_forward(
                self.initial_model_group, policy_waits, **seen
            )
        copies = self.args.ds.ring_attn_size * self.args.ds.tensor_parallel_size
        return {name: self._flatten_results(refs, copies) for name, refs in asked.items()}

    def _dispatch_forward(self, group: Any, sync_condition: bool, **kwargs: Any) -> Any:
        """OpenRLHF's, with as many batches for every rank as for any other, the last repeated.

        Without: it refuses a batch that has fewer than there are ranks, and models in parts
        (ZeRO-3), which work on them together, wait for the rank that has none.
        """
        ranks = len(group._actor_handlers) // group.duplicate_actors
        missing = -len(kwargs["sequences"]) % ranks
        filled = {name: [*batches, *batches[-1:] * missing] for name, batches in kwargs.items()}
        return super()._dispatch_forward(group, sync_condition, **filled)

    def _compare(self, samples: Any, reference: torch.Tensor | None) -> None:
        """The KL of a batch to the reference model: a penalty in the rewards, unless it is a term
        of the loss, where it is computed; then that has the reference's log-probs."""
        log_probs, kl = samples.action_log_probs, self.args.algo.kl
        samples.kl = difference = torch.zeros_like(log_probs)
        if reference is not None and not (kl.use_loss or self._teaches):
            samples.kl = compute_approx_kl(log_probs, reference, kl_estimator=kl.estimator)
            difference = log_probs.float() - reference.float()
        samples.base_action_log_probs = reference if kl.use_loss or self._teaches else None
        samples.info["kl"] = masked_mean(samples.kl, samples.action_mask, dim=-1)
        samples.info["logprobs_diff"] = masked_mean(difference, samples.action_mask, dim=-1)

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
        before = torch.cat([e.rewards for e in experiences])
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
            self._add_returns(experience, value)
        if self.turns is not None:
            penalties = (torch.cat([e.rewards for e in experiences]) - before)[in_order]
            self._credit_turns(experiences, self.turns, rewards, penalties, counted)
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

    def _add_returns(self, experience: Any, value: torch.Tensor) -> None:
        """Of a batch whose samples' outcomes have the (B,) `value`, less what KL costs by token."""
        args, mask = self.args, experience.action_mask
        per_token = compute_reward(
            value,
            self.kl_ctl.value,
            experience.kl,
            action_mask=mask,
            reward_clip_range=args.reward.clip_range,
        )
        gamma = self._gamma()
        if self.advantage_estimator == "gae":
            experience.advantages, experience.returns = self.get_advantages_and_returns(
                experience.values, per_token, mask, gamma, args.algo.advantage.lambd
            )
        else:
            experience.returns = self.get_cumulative_returns(per_token, mask, gamma)
            experience.advantages = experience.returns.clone()
        experience.info["return"] = per_token.sum(dim=-1)
        experience.kl = None

    def _credit_turns(
        self,
        experiences: list[Any],
        turns: Sequence[Turns],
        rewards: torch.Tensor,
        penalties: torch.Tensor,
        counted: torch.Tensor,
    ) -> None:
        """Exchange the episode's advantage for the turn's on the tokens of each turn.

        Args:
            turns: of each of the N samples.
            rewards: (G, n), penalties included.
            penalties: (N,), of an episode's length: the last turn's.
            counted: (G, n).
        """
        told, taken = rewards_of_turns(turns)
        last = (taken.sum(-1, keepdim=True) - 1).clamp(min=0)
        told.scatter_add_(1, last, penalties[:, None].double())
        shape = (*rewards.shape, -1)
        estimator, clip = self.advantage_estimator, self.args.reward.clip_range
        found = turn_advantages(
            rewards, told.view(shape), taken.view(shape), counted, estimator
        ).flatten(0, 1)
        if clip:  # as OpenRLHF does with what it puts on the last token
            found = found.clamp(min=clip[0], max=clip[1])
        # The first is the episode's, and so is that of a token of no turn.
        change = torch.cat([torch.zeros_like(found[:, :1]), found - found[:, :1]], dim=1)
        for experience in experiences:
            actions = experience.action_mask.shape[1]
            for row, index in enumerate(experience.index):
                own = change[index][turn_of_token(turns[index], actions)]
                experience.advantages[row] += own * experience.action_mask[row]

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
