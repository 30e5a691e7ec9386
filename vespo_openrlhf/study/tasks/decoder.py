"""A small decoder in plain torch: trained over whole sequences, sampled with a key-value cache.

A third of the time of the same model through transformers, whose sampler spends most of its time
between operators at this size. The architecture is OPT's, for which `checkpoint` writes it as files
that transformers and vLLM load. A Qwen3 of the size learns the task half as fast: sums are written
by place, and OPT's learned positions are places.

Shapes: B sequences, T tokens, D width, H heads, K = D / H, V vocabulary, A response tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vespo_openrlhf.study.tasks import Policy, Samples, Task, response_mask

# Sequences sampled at once. The key-value cache of the first stays in a core's cache.
_SAMPLED_AT_ONCE, _SAMPLED_AT_ONCE_GPU = 256, 2048


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, T, K) each."""
        batch, tokens, _ = x_BTD.shape
        qkv = self.qkv(self.attention_norm(x_BTD)).view(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def finish(self, x_BTD: Tensor, attended_BHTK: Tensor) -> Tensor:
        x_BTD = x_BTD + self.out(attended_BHTK.transpose(1, 2).flatten(2))
        return x_BTD + self.down(functional.relu(self.up(self.mlp_norm(x_BTD))))


class Decoder(Policy):
    """A causal transformer of OPT's architecture, without biases in its linear maps.

    Args:
        width: D.
        layers: how many.
        heads: H; divides the width.
        vocabulary: V.
        prompt_tokens, max_tokens: of a prompt, and of prompt and response at most.
        end, pad: ids of the token that ends a response and of the padding after it.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        vocabulary: int,
        prompt_tokens: int,
        max_tokens: int,
        end: int,
        pad: int,
    ) -> None:
        super().__init__()
        self._prompt_tokens, self._max_tokens = prompt_tokens, max_tokens
        self._end, self._pad = end, pad
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(max_tokens, width)
        # A plain list with types, and the module list that registers it.
        self._layers = [_Layer(width, heads) for _ in range(layers)]
        self.layers = nn.ModuleList(self._layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        inner = {id(parameter) for parameter in self.layers.parameters()}
        for parameter in self.parameters():
            if parameter.dim() == 2:
                std = 0.64 / math.sqrt(width) if id(parameter) in inner else 0.02
                nn.init.normal_(parameter, std=std)

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """(B, T, D) last hidden states."""
        x = self.tokens(ids_BT) + self.positions.weight[: ids_BT.shape[1]]
        for layer in self._layers:
            q, k, v = layer.project(x)
            x = layer.finish(x, functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self.norm(x)

    def log_probs(self, ids_BT: Tensor) -> Tensor:
        """(B, A) log pi of the response tokens, with the gradient. What stands at PAD is no use."""
        hidden = self.hidden(ids_BT[:, :-1])[:, self._prompt_tokens - 1 :]
        logits_BAV = self.head(hidden)
        chosen = logits_BAV.gather(-1, ids_BT[:, self._prompt_tokens :, None])[..., 0]
        return chosen - logits_BAV.logsumexp(-1)

    @torch.no_grad()
    def sample(
        self, prompts_BP: Tensor, generator: torch.Generator, *, logit_noise: float = 0.0
    ) -> Samples:
        """See `tasks.Policy`."""
        on_cpu = prompts_BP.device.type == "cpu"
        parts = prompts_BP.split(_SAMPLED_AT_ONCE if on_cpu else _SAMPLED_AT_ONCE_GPU)
        return Samples.cat([self._sample(part, generator, logit_noise) for part in parts])

    def _sample(
        self, prompts_BP: Tensor, generator: torch.Generator, logit_noise: float
    ) -> Samples:
        batch, prompt = prompts_BP.shape
        dtype = self.head.weight.dtype
        ids = torch.full((batch, self._max_tokens), self._pad)
        ids[:, :prompt] = prompts_BP
        log_probs = torch.zeros(batch, self._max_tokens - prompt)
        entropy = torch.zeros_like(log_probs)
        caches = []
        x = self.tokens(prompts_BP) + self.positions.weight[:prompt]
        for layer in self._layers:
            q, k, v = layer.project(x)
            keys = torch.empty(batch, layer.heads, self._max_tokens, q.shape[-1], dtype=dtype)
            values = torch.empty_like(keys)
            keys[:, :, :prompt], values[:, :, :prompt] = k, v
            caches.append((keys, values))
            x = layer.finish(x, functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        running = torch.ones(batch, dtype=torch.bool)
        for place in range(prompt, self._max_tokens):
            # Softmax in float32 whatever the weights are, as engines do.
            logits = self.head(self.norm(x[:, -1])).float()
            if logit_noise:
                logits += logit_noise * torch.randn(logits.shape, generator=generator)
            log_p = logits.log_softmax(-1)
            p = log_p.exp()
            drawn = torch.multinomial(p, 1, generator=generator)
            step = place - prompt
            log_probs[:, step] = torch.where(running, log_p.gather(1, drawn)[:, 0], 0.0)
            entropy[:, step] = torch.where(running, -(p * log_p).sum(-1), 0.0)
            ids[:, place] = torch.where(running, drawn[:, 0], self._pad)
            running &= drawn[:, 0] != self._end
            if place + 1 == self._max_tokens or not running.any():
                break
            x = (self.tokens(ids[:, place]) + self.positions.weight[place]).unsqueeze(1)
            for layer, (keys, values) in zip(self._layers, caches, strict=True):
                q, k, v = layer.project(x)
                keys[:, :, place : place + 1], values[:, :, place : place + 1] = k, v
                seen = slice(0, place + 1)
                x = layer.finish(
                    x,
                    functional.scaled_dot_product_attention(
                        q, keys[:, :, seen], values[:, :, seen]
                    ),
                )
        return Samples(ids, response_mask(ids[:, prompt:], self._end), log_probs, entropy)


class DecoderTask(Task):
    """A task whose policy is a `Decoder`, and whose responses are right by how they end.

    Attributes:
        vocabulary: a token an id.
        pad: id of the padding.
    """

    vocabulary: Sequence[str]
    pad: int

    def is_right(self, responses_BA: Tensor, answers: Tensor) -> Tensor:
        """(B,) bool: the response ends in its answer, whatever the work before it says.

        Args:
            responses_BA: see `Task`.
            answers: (B, S) int64, the last tokens of a right response, its end among them; -1 in
                front of one that is shorter.
        """
        size = answers.shape[1]
        length_B1 = response_mask(responses_BA, self.end).sum(dim=1, keepdim=True)
        place_BS = length_B1 - size + torch.arange(size)
        tail_BS = responses_BA.gather(1, place_BS.clamp(min=0))
        matches = (tail_BS == answers) & (place_BS >= 0)
        return (matches | (answers < 0)).all(dim=1)

    def policy(self, width: int, layers: int, heads: int) -> Decoder:
        return Decoder(
            width,
            layers,
            heads,
            vocabulary=len(self.vocabulary),
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            end=self.end,
            pad=self.pad,
        )
