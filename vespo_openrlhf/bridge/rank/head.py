"""OpenRLHF's `Actor` with log-probs by `vespo_openrlhf.log_prob_head`: policy and reference.

The output layer is called as before, once in each forward pass and as the module it is, and only
answers with the log-probs of its tokens where it used to give logits. So DeepSpeed's hooks gather
the layer's weight for either pass, and let go of it, as they do for any other (ZeRO-3).

Only positions that predict an action token are computed: OpenRLHF multiplies the others by 0.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from openrlhf.models import Actor
from openrlhf.models.ring_attn_utils import unpad_and_slice_tensor
from torch import Tensor, nn

from vespo_openrlhf import config
from vespo_openrlhf.bridge.flags import flatten
from vespo_openrlhf.log_prob_head import token_log_probs
from vespo_openrlhf.reverse_kl import reverse_kl
from vespo_openrlhf.routing_replay import RoutingReplay

# Tokens of the trial, and how far its log-probs may be from those by way of the logits, as a mean
# in nats: a product of another shape may round the last digit of a logit otherwise.
_TRIAL = 16
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass
class _Question:
    """What the output layer is asked in one forward pass, and its answer.

    Attributes:
        tokens: (N,) the tokens whose log-probs are wanted.
        rows: (N,) the positions that predict them, among all that the layer is given.
        teacher: a teacher's last hidden states at these positions, (N, E), and its output layer's
            weight; None where nobody asks for its opinion.
        states: whether the hidden states themselves are asked for.
        answer: (N, 1) log-probs, with entropies (N, 2); with a teacher two more columns, the KL to
            it and its own log-probs. Or (N, D) hidden states.
    """

    tokens: Tensor
    rows: Tensor
    temperature: float
    entropy: bool
    teacher: tuple[Tensor, Tensor] | None = None
    states: bool = False
    answer: Tensor | None = None


class OutputHead:
    """A model's output layer, which can be asked for log-probs.

    Args:
        layer: without a forward of its own. Made after DeepSpeed has put its hooks on it: the
            answer is taken where these are through, or no weight would be there in backward.
        soft_cap: as in `token_log_probs`.
    """

    def __init__(self, layer: nn.Linear, soft_cap: float | None) -> None:
        self._layer, self._soft_cap = layer, soft_cap
        self._question: _Question | None = None
        layer.register_forward_hook(self._take_answer)

    @contextlib.contextmanager
    def asked(self, question: _Question) -> Iterator[None]:
        """Within, the layer answers `question` in the place of logits."""
        self._question = question
        # Beside the class's own, which nn.Module calls when the instance has none.
        self._layer.forward = functools.partial(self._forward, question)  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self._layer.forward
            self._question = None

    @property
    def is_plain(self) -> bool:
        """Whether its logits are a matrix product and nothing else."""
        return self._soft_cap is None and self._layer.bias is None

    def _forward(self, question: _Question, hidden: Tensor) -> Tensor:
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, question.rows)
        if question.states:
            return chosen
        log_probs, entropies = token_log_probs(
            chosen,
            self._layer.weight,
            question.tokens,
            bias_V=self._layer.bias,
            temperature=question.temperature,
            soft_cap=self._soft_cap,
            entropy=question.entropy,
        )
        parts = [log_probs] if entropies is None else [log_probs, entropies]
        if question.teacher is not None:
            parts += reverse_kl(
                *(chosen, self._layer.weight, *question.teacher, question.tokens),
                temperature=question.temperature,
            )
        return torch.stack(parts, dim=1)

    def _take_answer(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if self._question is None:
            return None
        self._question.answer = output
        # What the model makes of its logits, a soft cap say, it makes of these.
        return output.detach().new_zeros(1, 1, 1)


class HeadActor(Actor):
    """`Actor`, with its interface, that needs no logits where log-probs of actions are asked for.

    Entropies are 0 where no action is predicted. `output.logits` is None.

    What the head cannot do goes OpenRLHF's way: calls without an action mask, with images or with
    ring attention, models whose output layer is not a plain one, and those whose log-probs a trial
    before the first use finds to be others, because they do something with their logits that is
    not known here.
    """

    _head: OutputHead | None = None
    _tried = False
    #: As a teacher: tells last hidden states where log-probs are asked for, (B, A, D).
    tells_states = False
    #: Of a teacher whose whole distribution is asked for: its output layer's weight, (V, E).
    teacher_weight: Tensor | None = None
    #: (B, A, E) its last hidden states where each action of the next batch is predicted.
    teacher_states: Tensor | None = None
    #: What came of it: (B, A) KL to the teacher, with a gradient, and its log-probs.
    taught: tuple[Tensor, Tensor] | None = None
    #: Of the policy, where it replays.
    routing: RoutingReplay | None = None

    def forward(
        self,
        sequences: Tensor,
        action_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_output: bool = False,
        allgather_logits: bool = False,
        return_logprobs: bool = False,
        ring_attn_group: Any = None,
        packed_seq_lens: list[int] | None = None,
        return_entropy: bool = False,
        **mm_inputs: Any,
    ) -> Any:
        """As `Actor.forward`."""
        options = {"return_output": return_output, "return_entropy": return_entropy}
        if action_mask is not None and ring_attn_group is None and not mm_inputs:
            if not self._tried:
                self._try(sequences.device)
            distils = self.tells_states or self.teacher_states is not None
            if distils and not (self._head and self._head.is_plain):
                raise ValueError(
                    "--distill.estimator full multiplies hidden states with the output layer, and "
                    "this model does something else with them: take --distill.estimator sampled"
                )
            if self._head is not None:
                return self._by_head(self._head, sequences, action_mask, attention_mask, **options)
        return super().forward(
            sequences,
            action_mask,
            attention_mask=attention_mask,
            allgather_logits=allgather_logits,
            return_logprobs=return_logprobs,
            ring_attn_group=ring_attn_group,
            packed_seq_lens=packed_seq_lens,
            **options,
            **mm_inputs,
        )

    def _by_head(
        self,
        head: OutputHead,
        sequences: Tensor,
        action_mask: Tensor,
        attention_mask: Tensor | None,
        return_output: bool,
        return_entropy: bool,
    ) -> Any:
        assert attention_mask is not None, "OpenRLHF's Actor needs it, too"
        batch, length = sequences.shape
        actions = action_mask.shape[1]
        wanted = torch.zeros_like(sequences, dtype=torch.bool)
        wanted[:, -actions - 1 : -1] = action_mask.bool()
        wanted &= attention_mask.bool()
        if self.packing_samples:
            ids, position_ids, following, _, indices = unpad_and_slice_tensor(
                sequences, attention_mask, None
            )
            places, model_mask = indices, None
            rows = wanted.flatten()[indices].nonzero()[:, 0]
        else:
            ids, model_mask = sequences, attention_mask
            following = torch.roll(sequences, shifts=-1, dims=1)
            position_ids = attention_mask.long().cumsum(-1) - 1
            position_ids.masked_fill_(attention_mask == 0, 1)
            rows = wanted.flatten().nonzero()[:, 0]
            places = None
        question = _Question(following.flatten()[rows], rows, self.temperature, return_entropy)
        question.states = self.tells_states
        if self.teacher_states is not None:
            assert self.teacher_weight is not None
            states = self.teacher_states[wanted[:, -actions - 1 : -1]]
            question.teacher = states, self.teacher_weight
        with head.asked(question):
            output = self.model(ids, attention_mask=model_mask, position_ids=position_ids)
        output["logits"] = None
        answer = question.answer
        assert answer is not None, "the model has not called its output layer"
        columns = answer.new_zeros(batch * length, answer.shape[1]).index_copy(
            0, rows if places is None else places[rows], answer
        )
        columns = columns.view(batch, length, -1)[:, :-1]
        if self.tells_states:
            return columns[:, -actions:]
        if return_entropy:
            output.entropy = columns[..., 1]
        if question.teacher is not None:
            kl, told = columns[:, -actions:, -2:].unbind(-1)
            self.taught = kl, told.detach()
        log_probs = columns[:, -actions:, 0] * action_mask.float()
        return (log_probs, output) if return_output else log_probs

    @torch.no_grad()
    def _try(self, device: torch.device) -> None:
        """Make the head, if it gives the log-probs that OpenRLHF's way gives."""
        self._tried = True
        model: Any = getattr(self.model, "module", self.model)
        layer = model.get_output_embeddings()
        if getattr(self, "is_vlm", False) or type(layer) is not nn.Linear:
            _say("the logits are computed whole: the output layer is not a plain one")
            return
        assert "forward" not in vars(layer)
        settings = model.config.get_text_config()
        head = OutputHead(layer, getattr(settings, "final_logit_softcapping", None))
        tokens = (torch.arange(_TRIAL, device=device) * 7 + 1)[None] % settings.vocab_size
        mask = torch.ones_like(tokens)
        training, asked = self.training, (self.tells_states, self.teacher_states)
        self.tells_states, self.teacher_states = False, None
        self.eval()
        try:
            with self.routing.suspended() if self.routing else contextlib.nullcontext():
                expected = super().forward(tokens, mask[:, 1:], attention_mask=mask)
                got = self._by_head(head, tokens, mask[:, 1:], mask, False, False)
        finally:
            self.train(training)
            self.tells_states, self.teacher_states = asked
        difference = float((got - expected).abs().mean())
        if difference <= _TOLERANCE.get(layer.weight.dtype, 0.0):
            self._head = head
        else:
            _say(
                "the logits are computed whole: this model does something with them that the "
                f"head does not know (log-probs {difference:.2g} nats away)"
            )


def _say(text: str) -> None:
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(f"[vespo] {text}", flush=True)


def actor_class(strategy: Any) -> type[Actor]:
    """The class of the policy and its reference, as the run's flags have it."""
    return HeadActor if config.chunked_log_probs(flatten(strategy.args)) else Actor
