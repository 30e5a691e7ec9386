"""Credit by turn: each turn of an episode is a sequence of its own for the loss.

B episodes, A action tokens, R turns of all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .inputs import LossInputs


def split_turns(inputs: LossInputs, turns: Tensor) -> tuple[LossInputs, Tensor]:
    """The batch with a row for each turn, its mask restricted to the turn's own tokens.

    Any loss of rows then is one of turns. VESPO's, with k the turns of the episode i, is

        L = -(1/B) sum_i sum_k phi(W_ik) A_ik sum_(t in k) log pi_t,   W_ik = prod_(t in k) pi/mu,

    where with W over the whole episode one phi(W_i) stands before all of its turns: over many turns
    |log W_i| grows with their number, and an old first turn takes the weight of the last one too.
    W_ik leaves out how the policy's chance of getting to turn k has changed, as a token's ratio
    leaves out its prefix: a biased weight with less variance.

    What a token's term is divided by stays as it was, so that turns of which every W is 1 have the
    gradient of the episode: B is the number of episodes, and where the loss is a mean over the
    tokens of a row ("seq-mean-token-mean"), the tokens are those of the whole episode. Divided by
    its own, a short turn's token would count for more than a long one's, and an episode for more
    the more turns it has.

    The rows cost as many times the loss's elementwise work, on (R, A), as there are turns; the
    model's forward and backward pass are of the (B, A) they were.

    Args:
        inputs: a micro-batch of episodes.
        turns: (B, A) int64, the turn that each action token was sampled in, 0 or more. Two turns
            may be adjacent: the mask does not tell them. What stands outside it is not read.

    Returns:
        The rows, in the order of episodes and of their turns; an episode without action tokens
        keeps its one empty row. And (R,) int64, the episode of each.
    """
    mask = inputs.mask
    episodes = torch.arange(len(mask), device=mask.device)
    turns = torch.where(mask, turns, 0)
    number = turns.max() + 1 if turns.numel() else 1
    keys = episodes[:, None] * number + turns
    of_empty = (episodes * number)[inputs.num_tokens == 0]
    rows = torch.cat([keys[mask], of_empty]).unique()
    episode = rows // number
    own = mask[episode] & (keys[episode] == rows[:, None])
    total = inputs.global_batch_size
    if total is None:
        # Of the episodes: a loss would count the rows. `dp_size`, which is left out then, goes out.
        total = (inputs.num_tokens > 0).sum().clamp(min=1) * inputs.dp_size
    per_token: dict[str, Any] = {
        name: None if (values := getattr(inputs, name)) is None else values[episode]
        for name in ("log_probs", "advantages", "rollout_log_probs", "old_log_probs")
    }
    split = dataclasses.replace(
        inputs,
        **per_token,
        action_mask=own,
        global_batch_size=total,
        mean_over=inputs.num_tokens[episode],
    )
    return split, episode
