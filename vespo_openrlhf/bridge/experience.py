"""OpenRLHF's experience maker, one forward pass shorter where nobody reads its result."""

from __future__ import annotations

from typing import Any

import ray
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker


class ShortExperienceMaker(RemoteExperienceMaker):
    """Fills in the engine's log-probs where the actor's recomputed ones would stand.

    So `old_log_probs` are those of the behaviour policy, and of OpenRLHF's metrics `ppo_kl` then
    measures all of the distance from it (lag, mismatch and the batch's own updates), while
    `vllm_kl`, engine against recomputation, is 0 and says nothing.
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
