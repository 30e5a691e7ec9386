"""Our actor beside OpenRLHF's: the same log-probs, entropies and gradients, without the logits."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vespo_openrlhf import log_prob_head
from vespo_openrlhf.bridge.actor import PolicyActor, ReferenceActor
from vespo_openrlhf.bridge.rank.head import HeadActor, OutputHead
from vespo_openrlhf.bridge.seams import _log_probs

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # log-probs that differ between tokens
}


def tiny(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    name, options = {
        "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
        "llama": ("Llama", {"tie_word_embeddings": False}),
        "gemma2": ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 3.0}),
        "experts": (
            "Qwen3Moe",
            {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        ),
        "granite": ("Granite", {"logits_scaling": 4.0}),  # whose logits are divided
    }[kind]
    config = getattr(transformers, f"{name}Config")(**SMALL, **options)
    config._attn_implementation = "sdpa"
    config.use_cache = False
    if kind == "experts":
        config.output_router_logits = True
    return getattr(transformers, f"{name}ForCausalLM")(config).float()


def actors(kind: str, temperature: float = 1.0, packing: bool = False) -> tuple[Any, Any]:
    """(OpenRLHF's, ours) around one model."""
    from openrlhf.models import Actor

    model = tiny(kind)
    both = []
    for cls in (Actor, HeadActor):
        actor = cls(model, temperature=temperature)
        actor.packing_samples = packing
        both.append(actor)
    return both[0], both[1]


def micro_batch() -> dict[str, Tensor]:
    """Three sequences of a prompt on the left and responses of 7, 3 and 0 tokens, padded right."""
    generator = torch.Generator().manual_seed(1)
    sequences = torch.randint(2, 61, (3, 12), generator=generator)
    attention_mask = torch.ones(3, 12, dtype=torch.long)
    action_mask = torch.zeros(3, 8, dtype=torch.bool)
    for row, (first, last) in enumerate(((4, 11), (3, 6), (5, 5))):
        attention_mask[row, last:] = 0
        action_mask[row, max(first - 4, 0) : last - 4] = True
    return {
        "sequences": sequences,
        "attention_mask": attention_mask,
        "action_mask": action_mask,
    }


def results(actor: Any, batch: dict[str, Tensor], entropy: bool) -> tuple[Tensor, Any, list[Any]]:
    log_probs, output = actor(**batch, return_output=True, return_entropy=entropy)
    weights = torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)
    loss = (log_probs * weights).sum()
    if entropy:
        own = output.entropy[:, -log_probs.shape[1] :] * batch["action_mask"]
        loss = loss + (own * weights.flip(0)).sum()
    if "aux_loss" in output:
        loss = loss + 0.01 * output.aux_loss
    parameters = list(actor.model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return log_probs, output, list(gradients)


def same(ours: Tensor | None, theirs: Tensor | None) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["qwen2-tied", "llama", "gemma2", "experts"])
def test_log_probs_entropies_and_gradients(
    kind: str, temperature: float, entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openrlhf.models.actor as upstream

    # Compiled in OpenRLHF, which takes a C++ compiler half a minute here.
    plain = getattr(upstream.compute_entropy, "_torchdynamo_orig_callable", None)
    monkeypatch.setattr(upstream, "compute_entropy", plain or upstream.compute_entropy)
    theirs, ours = actors(kind, temperature)
    batch = micro_batch()
    expected, expected_output, expected_gradients = results(theirs, batch, entropy)
    log_probs, output, gradients = results(ours, batch, entropy)
    assert ours._head is not None
    same(log_probs, expected)
    assert log_probs.dtype == expected.dtype
    assert output.logits is None
    if entropy:
        mask = batch["action_mask"]
        assert output.entropy.shape == expected_output.entropy.shape
        same(output.entropy[:, -8:] * mask, expected_output.entropy[:, -8:] * mask)
    if kind == "experts":
        same(output.aux_loss, expected_output.aux_loss)
    for one, other in zip(gradients, expected_gradients, strict=True):
        same(one, other)


@pytest.mark.parametrize(("targets", "heads"), [(["q_proj"], True), (["lm_head"], False)])
def test_adapters(targets: list[str], heads: bool) -> None:
    """With LoRA the layer is found through its wrapper, and frozen; an adapter on the output layer
    itself is not left out."""
    peft = pytest.importorskip("peft")
    theirs, ours = actors("llama")
    adapted = peft.get_peft_model(
        ours.model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    )
    theirs.model = ours.model = adapted
    trained = [p for p in adapted.parameters() if p.requires_grad]
    batch = micro_batch()
    expected, log_probs = theirs(**batch), ours(**batch)
    assert (ours._head is not None) is heads
    same(log_probs, expected)
    weights = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    for one, other in zip(
        torch.autograd.grad((log_probs * weights).sum(), trained),
        torch.autograd.grad((expected * weights).sum(), trained),
        strict=True,
    ):
        same(one, other)


def test_no_tensor_of_the_vocabulary_is_kept_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = actors("llama")
    batch = micro_batch()
    ours(**batch)  # the trial

    def sizes(actor: Any) -> list[int]:
        found = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: found.append(tensor.shape) or tensor, lambda tensor: tensor
        ):
            actor(**batch)
        return [shape for shape in found if shape[-1] == 61 and shape[0] != 32]

    assert sizes(theirs)
    assert not sizes(ours)


def test_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of flash-attn that pack and unpack are these; attention keeps rows apart by
    their positions."""
    from openrlhf.models import ring_attn_utils

    def unpad_input(x: Tensor, mask: Tensor) -> tuple[Any, ...]:
        indices = mask.flatten().nonzero()[:, 0]
        lengths = mask.sum(1, dtype=torch.int32)
        cumulative = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        return x.flatten(0, 1)[indices], indices, cumulative, int(lengths.max()), lengths

    def pad_input(x: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
        padded = x.new_zeros(batch * length, *x.shape[1:]).index_copy(0, indices, x)
        return padded.view(batch, length, *x.shape[1:])

    monkeypatch.setattr(ring_attn_utils, "unpad_input", unpad_input)
    monkeypatch.setattr(ring_attn_utils, "pad_input", pad_input)
    monkeypatch.setattr(ring_attn_utils, "index_first_axis", lambda x, indices: x[indices])
    monkeypatch.setattr(ring_attn_utils, "rearrange", lambda x, _: x.flatten(0, 1))
    batch = micro_batch()
    plain, _ = actors("qwen2-tied", 0.9)
    theirs, ours = actors("qwen2-tied", 0.9, packing=True)
    expected, _, expected_gradients = results(theirs, batch, False)
    same(expected, plain(**batch))
    log_probs, _, gradients = results(ours, batch, False)
    assert ours._head is not None
    same(log_probs, expected)
    for one, other in zip(gradients, expected_gradients, strict=True):
        same(one, other)


def test_without_an_action_there_is_a_gradient_of_zero() -> None:
    _, ours = actors("qwen2-tied")
    batch = micro_batch()
    batch["action_mask"] = torch.zeros_like(batch["action_mask"])
    log_probs = ours(**batch)
    assert not log_probs.any()
    log_probs.sum().backward()
    assert not any(p.grad.any() for p in ours.model.parameters())


def test_logits_that_are_asked_for_are_given() -> None:
    theirs, ours = actors("llama")
    batch = micro_batch()
    ours(**batch)
    batch.pop("action_mask")
    same(ours(**batch, return_output=True).logits, theirs(**batch, return_output=True).logits)
    same(ours(**batch, return_logprobs=True), theirs(**batch, return_logprobs=True))


def _scaled_afterwards(model: Any) -> None:
    pass


def _of_another_class(model: Any) -> None:
    class Quantised(torch.nn.Linear):
        pass

    model.lm_head.__class__ = Quantised


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [("granite", _scaled_afterwards, "nats away"), ("llama", _of_another_class, "not a plain one")],
)
def test_what_the_head_does_not_know_goes_openrlhfs_way(
    kind: str, change: Callable[[Any], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = actors(kind)
    change(ours.model)
    batch = micro_batch()
    assert torch.equal(ours(**batch), theirs(**batch))
    assert ours._head is None
    assert capsys.readouterr().out.count(said) == 1
    ours(**batch)
    assert "logits" not in capsys.readouterr().out


def test_the_trial_leaves_the_mode_and_the_layer_alone() -> None:
    _, ours = actors("llama")
    ours.train()
    ours(**micro_batch())
    assert ours.training
    assert ours.model.training
    assert "forward" not in vars(ours.model.lm_head)


def test_an_error_in_the_model_takes_the_question_back() -> None:
    layer = torch.nn.Linear(4, 5)
    head = OutputHead(layer, None)
    with pytest.raises(ZeroDivisionError), head.asked(None):
        raise ZeroDivisionError
    assert layer(torch.zeros(1, 4)).shape == (1, 5)


class _Flags(SimpleNamespace):
    """OpenRLHF's arguments, of which only those given matter."""

    def __getattr__(self, name: str) -> _Flags:
        return _Flags()


@pytest.mark.parametrize("chosen", ["chunked", "full"])
def test_policy_and_reference_are_built_around_the_chosen_actor(
    chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By OpenRLHF's own code, as far as its first call of `Actor`."""
    from openrlhf.models import Actor
    from openrlhf.trainer.ray import launcher, ppo_actor

    from vespo_openrlhf.bridge.actor import ReferenceActor

    built: list[type] = []

    class BuiltError(Exception):
        pass

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        built.append(type(self))
        raise BuiltError

    monkeypatch.setattr(Actor, "__init__", build)
    strategy = SimpleNamespace(
        args=_Flags(
            actor=_Flags(log_prob_head=chosen),
            ds=_Flags(ring_attn_size=1, tensor_parallel_size=1, deepcompile=False),
            distill=_Flags(teacher=None),
        ),
        get_ds_train_config=dict,
        get_ds_eval_config=dict,
        save_model=None,
    )
    for cls in (PolicyActor, ReferenceActor):
        monkeypatch.setattr(cls, "_setup_distributed", lambda *_: None)
        actor: Any = object.__new__(cls)
        with pytest.raises(BuiltError):
            actor.init_model_from_pretrained(strategy, "a model")
    assert built == [HeadActor if chosen == "chunked" else Actor] * 2
    assert launcher.Actor is ppo_actor.Actor is Actor


def test_openrlhfs_command_line_finds_our_reference() -> None:
    from openrlhf.trainer.ray import launcher

    from vespo_openrlhf.bridge import plug
    from vespo_openrlhf.bridge.seams import plain_class

    with plug.in_place():
        assert issubclass(plain_class(launcher.ReferenceModelActor), ReferenceActor)
    assert not issubclass(plain_class(launcher.ReferenceModelActor), ReferenceActor)


def test_the_seam_holds() -> None:
    _log_probs()
    assert log_prob_head.BLOCK % 64 == 0


# -- a teacher's whole distribution, by the heads of both models


def distribution(actor: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, A, V) log-probs at the positions that predict actions."""
    actions = batch["action_mask"].shape[1]
    output = actor.model(batch["sequences"], attention_mask=batch["attention_mask"])
    scaled = output.logits.float() / actor.temperature
    return scaled.log_softmax(-1)[:, -actions - 1 : -1]


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_policy_measures_how_far_it_is_from_the_teacher(
    temperature: float, entropy: bool
) -> None:
    _, student = actors("llama", temperature)
    _, teacher = actors("experts", temperature)
    batch = micro_batch()
    mask = batch["action_mask"]
    teacher.tells_states = True
    with torch.no_grad():
        states = teacher(**batch)
    assert states.shape == (*mask.shape, 32)
    student.teacher_weight = teacher.model.get_output_embeddings().weight.detach()
    student.teacher_states = states
    log_probs, _ = student(**batch, return_output=True, return_entropy=entropy)
    kl, told = student.taught

    log_p, log_q = distribution(student, batch), distribution(teacher, batch).detach()
    chosen = batch["sequences"][:, -mask.shape[1] :, None]
    exact = (log_p.exp() * (log_p - log_q)).sum(-1) * mask
    torch.testing.assert_close(kl, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told, log_q.gather(-1, chosen)[..., 0] * mask, rtol=1e-4, atol=1e-5)
    parameters = list(student.model.parameters())
    weights = torch.linspace(-1, 1, mask.numel()).view_as(kl)
    ours, theirs = (
        torch.autograd.grad((each * weights + own * 0.5).sum(), parameters, allow_unused=True)
        for each, own in (
            (kl, log_probs),
            (exact, log_p.gather(-1, chosen)[..., 0] * mask),
        )
    )
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_model_that_does_more_with_its_logits_is_refused() -> None:
    """A soft cap, and a scale that the trial of the head finds."""
    for kind in ("gemma2", "granite"):
        _, teacher = actors(kind)
        teacher.tells_states = True
        with pytest.raises(ValueError, match=r"take --distill\.estimator sampled"):
            teacher(**micro_batch())


def test_the_trial_of_the_head_asks_no_teacher() -> None:
    """Which has hidden states of the batch alone."""
    _, student = actors("llama")
    batch = micro_batch()
    student.teacher_weight = torch.randn(61, 5)
    student.teacher_states = torch.randn(3, batch["action_mask"].shape[1], 5)
    student(**batch)
    assert student.taught is not None
