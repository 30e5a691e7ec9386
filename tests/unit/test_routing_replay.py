"""A router that is given its experts: the real ones of transformers."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vespo_openrlhf.models import experts
from vespo_openrlhf.routing_replay import RoutingReplay, check_routers, find_routers

EXPERTS, TOP_K, LAYERS = 8, 2, 3


def build(**options: Any) -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=53,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        moe_intermediate_size=24,
        initializer_range=0.2,
        **options,
    )
    return Qwen3MoeForCausalLM(config)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    """Experts for tokens of every layer, distinct: (*shape, LAYERS, TOP_K) uint8."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(*shape, LAYERS, EXPERTS, generator=generator)
    return scores.topk(TOP_K, dim=-1).indices.to(torch.uint8)


def run(model: nn.Module, tokens: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs of the tokens, and the gradient of a sum of them with weights of both signs."""
    model.zero_grad()
    logits = model(tokens, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    log_probs = logits.gather(-1, tokens[:, 1:, None])[..., 0] * mask[:, 1:]
    (log_probs * torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return log_probs.detach(), gradients


def forced(model: Qwen3MoeForCausalLM, ids: Tensor) -> Qwen3MoeForCausalLM:
    """The same model with routers written by hand, whose experts are `ids`: (N, LAYERS, TOP_K)."""
    made = copy.deepcopy(model)
    for index, layer in enumerate(made.model.layers):
        gate = layer.mlp.gate

        def route(hidden: Tensor, gate: nn.Module = gate, index: int = index) -> Any:
            logits = hidden.reshape(-1, hidden.shape[-1]) @ gate.weight.T
            scores = functional.softmax(logits, dtype=torch.float, dim=-1)
            scores = scores[torch.arange(len(scores))[:, None], ids[:, index].long()]
            if gate.norm_topk_prob:
                scores = scores / scores.sum(-1, keepdim=True)
            return logits, scores.to(logits.dtype), ids[:, index].long()

        gate.forward = route
    return made


@pytest.mark.parametrize("norm_topk_prob", [True, False])
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["kept", "reentrant", "not"])
def test_loss_and_gradient_are_those_of_a_model_with_these_experts(
    checkpointing: bool | None, norm_topk_prob: bool
) -> None:
    model = build(norm_topk_prob=norm_topk_prob)
    model.train()
    tokens, ids = torch.randint(53, (4, 11)), drawn(4, 11)
    mask = torch.ones_like(tokens)
    by_hand = forced(model, ids.flatten(0, 1))
    if checkpointing is not None:
        options = {"use_reentrant": checkpointing}
        model.gradient_checkpointing_enable(options)
    natural, _ = run(model, tokens, mask)
    replay = RoutingReplay(model, EXPERTS)
    with replay.armed(list(ids), mask, packed=False, counted=mask) as differing:
        log_probs, gradients = run(model, tokens, mask)
    expected, by_hand_gradients = run(by_hand, tokens, mask)
    assert (log_probs - natural).abs().max() > 0.1
    torch.testing.assert_close(log_probs, expected, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == by_hand_gradients.keys()
    for name, gradient in gradients.items():
        gap = (gradient - by_hand_gradients[name]).norm()
        assert gap <= 1e-6 * by_hand_gradients[name].norm(), name
    assert all(gradients[f"model.layers.{i}.mlp.gate.weight"].any() for i in range(LAYERS))
    assert (differing > 0.5).all()  # once a layer, though forward has run twice
    assert (differing <= 1).all()
    # Afterwards, the router chooses.
    assert torch.equal(run(model, tokens, mask)[0], natural)


class Routers(nn.Module):
    """A model's routers alone, each of which is shown what is not padding, as models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = build().model.layers

    def forward(self, hidden: Tensor) -> list[Any]:
        return [layer.mlp.gate(hidden) for layer in self.layers]


def of_sizes(*sizes: int) -> list[Tensor]:
    return [drawn(size, seed=size) for size in sizes]


@torch.no_grad()
def test_every_token_takes_its_own_and_others_choose() -> None:
    """Packed or padded, on either side; the last token of a sample has no experts, and one sample
    has none at all."""
    model = Routers()
    replay = RoutingReplay(model, EXPERTS)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    first, last = of_sizes(3, 2)
    hidden = torch.randn(3, 5, 32)
    natural = [answer[2] for answer in model(hidden)]
    for packed in (False, True):
        tokens = mask.flatten().bool() if packed else torch.ones(15, dtype=torch.bool)
        shown = hidden.flatten(0, 1)[tokens]
        with replay.armed([first, None, last], mask, packed=packed, counted=mask) as differing:
            answers = model(shown)
        for layer, (_, scores, taken) in enumerate(answers):
            expected = natural[layer].clone().view(3, 5, TOP_K)
            expected[0, :3] = first[:, layer]
            expected[2, 2:4] = last[:, layer]
            assert torch.equal(taken, expected.flatten(0, 1)[tokens])
            assert (
                torch.allclose(scores.sum(-1), torch.ones(()))
                is model.layers[layer].mlp.gate.norm_topk_prob
            )
        # By hand: of the tokens with experts, and of all layers.
        for sample, rows in ((0, first), (2, last)):
            start = 2 * (sample == 2)
            own = torch.stack(
                [n.view(3, 5, TOP_K)[sample, start : start + len(rows)] for n in natural], 1
            )
            other = (own.sort(-1).values != rows.long().sort(-1).values).any(-1)
            assert differing[sample] == pytest.approx(other.float().mean().item())
        assert differing[1].isnan()


@torch.no_grad()
def test_a_sure_router_counts_for_what_it_is_counted() -> None:
    model = Routers()
    replay = RoutingReplay(model, EXPERTS)
    hidden, mask = torch.randn(1, 4, 32), torch.ones(1, 4)
    own = torch.stack([answer[2] for answer in model(hidden)], 1).to(torch.uint8)
    own[1, 0] = own[1, 0].flip(-1)  # the same two
    own[2, 1, 0] = next(e for e in range(EXPERTS) if e not in own[2, 1].tolist())
    for counted, share in (([1, 1, 1, 1], 1 / 12), ([0, 0, 1, 0], 1 / 3), ([1, 1, 0, 0], 0.0)):
        counts = torch.tensor([counted])
        with replay.armed([own], mask, packed=False, counted=counts) as differing:
            model(hidden)
        assert differing.item() == pytest.approx(share)


def test_more_than_a_hundred_experts_are_no_negative_numbers() -> None:
    torch.manual_seed(0)
    model = Routers()
    for layer in model.layers:
        gate = layer.mlp.gate
        gate.num_experts, gate.weight = 256, nn.Parameter(torch.randn(256, 32) / 6)
    ids = torch.tensor([255, 128]).expand(4, LAYERS, 2).to(torch.uint8)
    with RoutingReplay(model, 256).armed([ids], torch.ones(1, 4), packed=False):
        answers = model(torch.randn(1, 4, 32))
    assert all(torch.equal(taken, ids[:, 0].long()) for _, _, taken in answers)


def test_suspended_the_routers_choose() -> None:
    model, tokens = build(), torch.randint(53, (1, 6))
    mask = torch.ones_like(tokens)
    natural, _ = run(model, tokens, mask)
    replay = RoutingReplay(model, EXPERTS)
    with replay.armed([drawn(6)], mask, packed=False):
        with replay.suspended():
            assert torch.equal(run(model, tokens, mask)[0], natural)
        assert not torch.equal(run(model, tokens, mask)[0], natural)


@torch.no_grad()
@pytest.mark.parametrize("counted", [torch.ones(1, 4), torch.ones(1, 3)], ids=["in it", "before"])
def test_after_an_error_the_routers_choose(counted: Tensor) -> None:
    model, hidden = Routers(), torch.randn(1, 4, 32)
    natural = model(hidden)
    replay = RoutingReplay(model, EXPERTS)
    with (
        pytest.raises(RuntimeError),
        replay.armed([drawn(3)], torch.ones(1, 4), packed=False, counted=counted),
    ):
        raise RuntimeError
    for before, after in zip(natural, model(hidden), strict=True):
        assert torch.equal(before[2], after[2])


def test_experts_of_another_model() -> None:
    replay = RoutingReplay(Routers(), EXPERTS)
    rows = drawn(3)[:, :2]
    with (
        pytest.raises(ValueError, match="experts of 2 layers, the model has one with experts at 2"),
        replay.armed([rows], torch.ones(1, 4), packed=False),
    ):
        pass


#: Of transformers' families, those whose configuration is enough to build them small.
REPLAYED = """
    cohere2_moe deepseek_v3 deepseek_v32 ernie4_5_moe exaone_moe flex_olmo glm4_moe glm4_moe_lite
    glm_moe_dsa gpt_oss granitemoe granitemoehybrid granitemoeshared hy_v3 laguna mellum
    mimo_v2_flash minimax minimax_m2 mixtral nemotron_h olmoe qwen2_moe qwen3_5_moe_text qwen3_moe
    qwen3_next solar_open
""".split()
REFUSED = {
    "phimoe": "PhimoeTopKRouter, does not take experts of the engine's choice .*0 times",
    "llama4_text": "Llama4Router, does not .*does not return the experts",
    "longcat_flash": "LongcatFlashTopkRouter, does not",
    "jetmoe": "no layer holds a router",
}


def of_family(name: str) -> tuple[nn.Module, int]:
    """A model with the defaults of its configuration, without memory, and how many experts."""
    config = CONFIG_MAPPING[name]()
    config.num_hidden_layers = min(config.num_hidden_layers, 6)
    for layers in ("layer_types", "mlp_layer_types"):
        if getattr(config, layers, None):
            setattr(config, layers, getattr(config, layers)[:6])
    with torch.device("meta"):
        model = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name])(config)
    return model, experts(json.loads(config.to_json_string(use_diff=False)))


@pytest.mark.parametrize("family", REPLAYED)
def test_a_family_replays(family: str) -> None:
    check_routers(*of_family(family))


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_is_refused_by_its_router(family: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[family]):
        check_routers(*of_family(family))


def test_layers_are_counted_with_the_dense_ones() -> None:
    model = build(mlp_only_layers=[0])
    assert list(find_routers(model)) == [1, 2]
    with pytest.raises(ValueError, match="no layer holds a router"):
        find_routers(nn.Linear(2, 2))


def test_a_layer_with_two_routers_is_refused() -> None:
    """As in Ernie 4.5 VL, where each sees the tokens of text, or those of images, alone."""
    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleDict({"text": build().model.layers[0].mlp})])
    assert list(find_routers(model)) == [0]
    model.layers[0]["image"] = build().model.layers[0].mlp
    with pytest.raises(ValueError, match=r"layer 0 has two routers \(Qwen3MoeTopKRouter"):
        find_routers(model)


def test_a_router_of_no_layer_is_named() -> None:
    odd = nn.Module()
    odd.experts, odd.gate = nn.Identity(), build().model.layers[0].mlp.gate
    with pytest.raises(ValueError, match=r"the router gate \(Qwen3MoeTopKRouter\) is in no layer"):
        find_routers(odd)


def test_a_router_that_ignores_what_it_is_given_is_found() -> None:
    """A stand-in for a family that chooses without a top-k."""

    class SortingRouter(type(build().model.layers[0].mlp.gate)):  # type: ignore[misc]
        def forward(self, hidden: Tensor) -> Any:
            scores = functional.linear(hidden, self.weight).softmax(-1)
            return scores, *scores.sort(-1, descending=True)

    config = SimpleNamespace(
        num_experts_per_tok=2, num_experts=8, norm_topk_prob=True, hidden_size=4
    )
    layer = nn.Module()
    layer.experts, layer.gate = nn.Identity(), SortingRouter(config)
    model = nn.ModuleDict({"layers": nn.ModuleList([layer])})
    with pytest.raises(ValueError, match="SortingRouter, does not take experts"):
        check_routers(model, 8)
