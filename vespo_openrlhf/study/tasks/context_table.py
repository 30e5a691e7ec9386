"""A policy as cheap as a table: what comes next depends on a few facts about what stands there.

Which digit it is depends on the term of the prompt that is due and on the last digit written.
Whether it is time for a digit, a thought or the end depends on the kind of the last token, on the
way of thinking that the response opened with, and on whether a term is left. So how long a
response thinks has no part in which digits it writes. Two small networks map the facts to logits;
there are a few thousand combinations of them, so they are run once on all, and a token costs a look
into the outcome, forward and backward, and in sampling.

Shapes: B sequences, A response tokens, C combinations, V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vespo_openrlhf.study.tasks import Policy, Samples, response_mask

#: Digits 0 to 9, then what thinking is written in, then the ways to think.
THOUGHTS = 4
FIRST_THOUGHT = 10
FIRST_WAY = FIRST_THOUGHT + THOUGHTS
WAYS = 3
END = FIRST_WAY + WAYS
PAD = END + 1
TOKENS = PAD + 1
TERMS = 9

# Sequences whose contexts are found at once: of a thousand tokens, they stay in a core's cache.
_LOOKED_UP_AT_ONCE = 64
_NO_DIGIT = 10
_IMPOSSIBLE = 1e-30  # and not 0, whose logarithm times 0 is no number
#: Kinds of the last token: one for each thought, then a digit, then whatever else it is.
_DIGIT, _OTHER = THOUGHTS, THOUGHTS + 1
_SIZES = (_NO_DIGIT + 1, _NO_DIGIT + 1, _OTHER + 1, WAYS + 1)
#: Before the first token, see `_transitions`.
_START = _NO_DIGIT * _SIZES[2] * _SIZES[3] + _OTHER * _SIZES[3] + WAYS


def _rest(kind: Tensor | int, way: Tensor | int) -> Any:
    """The part of a combination's index that the kind and the way make."""
    return kind * _SIZES[3] + way


def _kind(token: Tensor) -> Tensor:
    thought = token - FIRST_THOUGHT
    known = torch.where((thought >= 0) & (thought < THOUGHTS), thought, _OTHER)
    return torch.where(token < FIRST_THOUGHT, _DIGIT, known)


def _way(token: Tensor) -> Tensor:
    way = token - FIRST_WAY
    return torch.where((way >= 0) & (way < WAYS), way, WAYS)


class _Network(nn.Module):
    """Facts to logits."""

    def __init__(self, sizes: Sequence[int], width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.facts = nn.ModuleList([nn.Embedding(size, width) for size in sizes])
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.head = nn.Linear(width, outputs)

    def forward(self, facts_FC: Tensor) -> Tensor:
        """(C, outputs)."""
        embedded = [fact(column) for fact, column in zip(self.facts, facts_FC, strict=True)]
        x = torch.stack(embedded).sum(dim=0)
        for layer in self.hidden:
            x = x + torch.relu(layer(torch.relu(x)))
        found: Tensor = self.head(x)
        return found


class _FixedForm(nn.Module):
    """As a network of the form, of which only the choice among the thoughts is learnt.

    A response opens with a way, thinks before each term for as long as that way does, and ends
    after the last: what training cannot move.
    """

    def __init__(self, thinking: Sequence[float], width: int, layers: int) -> None:
        super().__init__()
        self.thought = _Network(_SIZES[2:], width, layers, THOUGHTS)
        kind, way, ended = torch.cartesian_prod(*map(torch.arange, (*_SIZES[2:], 2))).T
        self._thought_of_C = kind * _SIZES[3] + way
        chances = torch.full((len(kind), 1 + TOKENS - FIRST_THOUGHT), _IMPOSSIBLE)
        opening, ways = way == WAYS, len(thinking)
        first_way = 1 + THOUGHTS
        chances[opening, first_way : first_way + ways] = 1 / ways
        going_on = torch.tensor([*thinking, *[0.0] * (WAYS + 1 - ways)])[way]
        chances[:, 0] = torch.where(opening | (ended == 1), _IMPOSSIBLE, 1 / (1 + going_on))
        thinks = (~opening & (ended == 0))[:, None]
        share = (going_on / (1 + going_on))[:, None].clamp(min=_IMPOSSIBLE)
        chances[:, 1:first_way] = torch.where(thinks, share, chances[:, 1:first_way])
        chances[~opening & (ended == 1), END - FIRST_THOUGHT + 1] = 1.0
        self._chances = chances.log()
        self._facts = torch.cartesian_prod(*map(torch.arange, _SIZES[2:])).T

    def log_table(self) -> Tensor:
        """(combinations, forms) log-probs; of what cannot be, that of `_IMPOSSIBLE`."""
        thoughts = self.thought(self._facts).log_softmax(-1).index_select(0, self._thought_of_C)
        chances = self._chances
        chosen = chances[:, 1 : 1 + THOUGHTS] + thoughts
        return torch.cat([chances[:, :1], chosen, chances[:, 1 + THOUGHTS :]], dim=1)


class ContextTable(Policy):
    """See above.

    Args:
        width: of the hidden layers.
        layers: how many of them.
        max_response_tokens: A at most.
        thinking: of each way the mean number of thoughts before a digit, if that is fixed; None:
            how long it thinks is learnt, too.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 2,
        max_response_tokens: int = 256,
        thinking: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.max_response_tokens = max_response_tokens
        term, digit, kind, way = _SIZES
        self.digit = _Network((term, digit), width, layers, FIRST_THOUGHT)
        # What is no digit, each by itself, and before them that it is one.
        self.form: _Network | _FixedForm
        if thinking is None:
            self.form = _Network((kind, way, 2), width, layers, 1 + TOKENS - FIRST_THOUGHT)
        else:
            self.form = _FixedForm(thinking, width, layers)
        self._digits = torch.cartesian_prod(*map(torch.arange, (term, digit))).T
        self._forms = torch.cartesian_prod(*map(torch.arange, (kind, way, 2))).T
        every = torch.cartesian_prod(*map(torch.arange, _SIZES)).T
        self._digit_of_C = every[0] * digit + every[1]
        self._form_of_C = (every[2] * way + every[3]) * 2 + (every[0] == _NO_DIGIT)

    def log_table(self) -> Tensor:
        """(C, V) log-probs."""
        digits = self.digit(self._digits).log_softmax(-1).index_select(0, self._digit_of_C)
        if isinstance(self.form, _FixedForm):
            table = self.form.log_table()
        else:
            table = self.form(self._forms).log_softmax(-1)
        forms = table.index_select(0, self._form_of_C)
        return torch.cat([forms[:, :1] + digits, forms[:, 1:]], dim=1)

    def contexts(self, ids_BT: Tensor) -> Tensor:
        """(B, A) int64, the combination that each response token was written in."""
        prompts, responses = ids_BT[:, :TERMS], ids_BT[:, TERMS:]
        before = functional.pad(responses[:, :-1], (1, 0), value=PAD)
        digits = before < FIRST_THOUGHT
        written = digits.cumsum(dim=1)
        due = functional.pad(prompts, (0, 1), value=_NO_DIGIT)
        place = torch.arange(before.shape[1]).expand_as(before)
        last = torch.where(digits, place, -1).cummax(dim=1).values
        digit = torch.where(last >= 0, before.gather(1, last.clamp(min=0)), _NO_DIGIT)
        way = _way(responses[:, :1]).expand_as(before).clone()
        way[:, 0] = WAYS
        terms = due.gather(1, written.clamp(max=TERMS))
        combined: Tensor = (terms * _SIZES[1] + digit) * (_SIZES[2] * _SIZES[3])
        return combined + _rest(_kind(before), way)

    def log_probs(self, ids_BT: Tensor) -> Tensor:
        """See `tasks.Policy`."""
        places = (self.contexts(ids_BT) * TOKENS + ids_BT[:, TERMS:]).flatten()
        found: Tensor = self.log_table().flatten().index_select(0, places)
        return found.view(len(ids_BT), -1)

    @torch.no_grad()
    def sample(
        self, prompts_BP: Tensor, generator: torch.Generator, *, logit_noise: float = 0.0
    ) -> Samples:
        """See `tasks.Policy`."""
        table = self.log_table().float().log_softmax(-1)  # whatever the weights are, as engines do
        due = functional.pad(prompts_BP, (0, 1), value=_NO_DIGIT) * math.prod(_SIZES[1:])
        ids = torch.full((self.max_response_tokens, len(prompts_BP)), PAD)
        reported = torch.zeros(2 if logit_noise else 0, *ids.shape)  # log-probs and entropies
        cumulated = table.exp().cumsum(-1)
        after, is_digit = _transitions(), (torch.arange(TOKENS) < FIRST_THOUGHT).long()
        rows = torch.arange(len(ids[0]))  # those whose tokens are drawn, a few more than go on
        running = torch.ones(len(rows), dtype=torch.bool)
        written = torch.zeros(len(rows), dtype=torch.int64)
        # What of a combination hangs on the response: all but the term that is due.
        state = torch.full((len(rows),), _START)
        for place, row in enumerate(ids):
            index = due.gather(1, written[:, None])[:, 0].add_(state)
            draw = torch.rand(len(rows), 1, generator=generator)
            if logit_noise:
                noise = torch.randn(len(rows), TOKENS, generator=generator)
                noisy = (table.index_select(0, index) + logit_noise * noise).log_softmax(-1)
                token = _first_above(noisy.exp().cumsum(-1), draw)
                reported[0, place, rows] = noisy.gather(1, token[:, None])[:, 0]
                reported[1, place, rows] = -(noisy.exp() * noisy).sum(-1)
            else:
                token = _first_above(cumulated.index_select(0, index), draw)
            if len(rows) == len(row):
                row.copy_(token)
            else:
                row[rows] = token
            running &= token != END
            written.add_(is_digit.take(token)).clamp_(max=TERMS)
            if place == 0:
                state = state - WAYS + _way(token)
            state = after.take(state.mul_(TOKENS).add_(token))
            if 2 * int(running.count_nonzero()) <= len(rows):
                kept = running.nonzero()[:, 0]
                rows, running, due = rows[kept], running[kept], due[kept]
                written, state = written[kept], state[kept]
                if not len(rows):
                    break
        responses = ids.T.contiguous()
        mask = response_mask(responses, END)
        whole = torch.cat([prompts_BP, responses.masked_fill(~mask, PAD)], dim=1)
        log_probs, entropy = (
            reported.transpose(1, 2) if logit_noise else self._looked_up(whole, table)
        )
        return Samples(whole, mask, log_probs.where(mask, 0.0), entropy.where(mask, 0.0))

    def _looked_up(self, ids_BT: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """(B, A) log-probs of the response tokens, and entropies of where each was drawn from."""
        entropies = -(table.exp() * table).sum(-1)
        parts = []
        for part in ids_BT.split(_LOOKED_UP_AT_ONCE):
            contexts = self.contexts(part)
            parts.append(
                (table.take(contexts * TOKENS + part[:, TERMS:]), entropies.take(contexts))
            )
        log_probs, entropy = zip(*parts, strict=True)
        return torch.cat(log_probs), torch.cat(entropy)


def _transitions() -> Tensor:
    """(states * V,) int64: the state that follows each state with each token; a state is the index
    of a combination of last digit, kind and way."""
    digit, _, way = torch.cartesian_prod(*map(torch.arange, _SIZES[1:])).T[..., None]
    token = torch.arange(TOKENS)
    digit = torch.where(token < FIRST_THOUGHT, token, digit)
    return (digit * (_SIZES[2] * _SIZES[3]) + _rest(_kind(token), way)).flatten()


def _first_above(cumulated_BV: Tensor, draw_B1: Tensor) -> Tensor:
    """(B,) int64: the first token whose cumulated chance is not below the draw; the last one where
    even its is, by rounding."""
    return torch.searchsorted(cumulated_BV, draw_B1)[:, 0].clamp(max=TOKENS - 1)
