"""Our losses in other trainers: TRL's own VESPO, and docs/losses-elsewhere.md as it stands."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from vespo_openrlhf.losses import LossInputs, get_policy_loss, vespo_kernel

PAGE = Path(__file__).parents[2] / "docs" / "losses-elsewhere.md"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trl() -> Any:
    """TRL's GRPO; seconds to import."""
    pytest.importorskip("trl")
    from trl.trainer import grpo_trainer

    return grpo_trainer


def from_the_page(name: str, folder: Path) -> ModuleType:
    """The module that the page has as `python file=NAME`."""
    match = re.search(rf"^```python file={name}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert match is not None
    (folder / name).write_text(match[1])
    spec = importlib.util.spec_from_file_location(Path(name).stem, folder / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch(seed: int, drift: float, rows: int = 8, columns: int = 40) -> dict[str, torch.Tensor]:
    """A micro-batch with TRL's names: right-padded completions, log-probs of three policies."""
    generator = torch.Generator().manual_seed(seed)
    old = -2 * torch.rand(rows, columns, generator=generator)
    lengths = torch.randint(1, columns + 1, (rows, 1), generator=generator)
    noise = torch.randn(2, rows, columns, generator=generator)
    return {
        "log_probs": (old + drift * noise[0]).requires_grad_(),
        "old_per_token_logps": old,
        "sampling_per_token_logps": old + 0.3 * drift * noise[1],
        "advantages": torch.randn(rows, generator=generator),
        "completion_mask": (torch.arange(columns) < lengths).long(),
        "num_items_in_batch": 3 * lengths.sum(),  # of three micro-batches
    }


def stand_in(log_probs: torch.Tensor, ranks: int = 1) -> Any:
    """What `_compute_loss` reads of a GRPOTrainer with `loss_type="vespo"`, 3 micro-batches to an
    update, two updates to a generation batch."""
    args = SimpleNamespace(
        vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
        steps_per_generation=6,
    )  # fmt: skip
    accelerator = SimpleNamespace(num_processes=ranks, reduce=lambda x, reduction: x)
    return SimpleNamespace(
        args=args,
        accelerator=accelerator,
        loss_type="vespo",
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        beta=0.0,
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=3,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (
            log_probs, torch.zeros_like(log_probs), None,
        ),
    )  # fmt: skip


def loss_of_trl(
    trl: Any, inputs: dict[str, torch.Tensor], trainer: type | None = None, **changes: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of `_compute_loss`, TRL's own or a subclass's."""
    given = {k: v for k, v in inputs.items() if k != "log_probs"}
    for name in ("prompt_ids", "prompt_mask"):
        given[name] = torch.ones(len(inputs["advantages"]), 2, dtype=torch.long)
    given["completion_ids"] = given["completion_mask"]
    self = stand_in(inputs["log_probs"], **changes)
    owner = trainer or trl.GRPOTrainer
    self.get_gamma_weights = trl.GRPOTrainer.get_gamma_weights
    self.policy_loss = getattr(owner, "policy_loss", None)
    loss = owner._compute_loss(self, None, given)
    (gradient,) = torch.autograd.grad(loss, inputs["log_probs"])
    return loss.detach(), gradient


def loss_of_ours(
    inputs: dict[str, torch.Tensor], ranks: int = 1, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    loss, _ = get_policy_loss("vespo", **options)(
        LossInputs(
            log_probs=inputs["log_probs"],
            old_log_probs=inputs["old_per_token_logps"],
            rollout_log_probs=inputs["sampling_per_token_logps"],
            advantages=inputs["advantages"],
            action_mask=inputs["completion_mask"],
            batch_num_tokens=inputs["num_items_in_batch"] / 2,
            dp_size=ranks,
        )
    )
    (gradient,) = torch.autograd.grad(loss, inputs["log_probs"])
    return loss.detach(), gradient


def assert_equal(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> None:
    """To float32 rounding: of phi, whose relative error is c1 times that of log W."""
    loss, gradient = ours
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, theirs[1], rtol=2e-5, atol=1e-9)
    # Terms of both signs cancel in the loss; TRL adds them up in float32.
    torch.testing.assert_close(loss, theirs[0], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("drift", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("ranks", [1, 4])
def test_vespo_is_trls_own(trl: Any, drift: float, ranks: int) -> None:
    """Without a correction TRL's W is pi / pi_old: our anchor "old"."""
    inputs = batch(1, drift)
    ours = loss_of_ours(inputs, ranks, anchor="old")
    assert_equal(ours, loss_of_trl(trl, inputs, ranks=ranks))


@pytest.mark.parametrize("drift", [0.01, 0.1, 0.5])
def test_with_the_engines_log_probs_too(trl: Any, drift: float) -> None:
    """With the whole ratio pi_old / mu per token TRL's W is pi / mu: our anchor "rollout"."""
    inputs = batch(2, drift)
    difference = inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]
    ratio = (difference * inputs["completion_mask"]).exp()
    theirs = loss_of_trl(trl, inputs | {"importance_sampling_ratio": ratio})
    assert_equal(loss_of_ours(inputs), theirs)


@pytest.mark.parametrize("drift", [0.1, 0.5, 2.0])
def test_with_the_correction_truncated(trl: Any, drift: float) -> None:
    """TRL's default bound on pi_old / mu, per token, is our tis_cap."""
    inputs = batch(5, drift)
    difference = inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]
    ratio = (difference * inputs["completion_mask"]).exp().clamp(max=1.2)
    assert (ratio == 1.2).any() or drift < 0.5
    theirs = loss_of_trl(trl, inputs | {"importance_sampling_ratio": ratio})
    assert_equal(loss_of_ours(inputs, anchor="old", tis_cap=1.2), theirs)


@pytest.mark.parametrize("log_w", [-18.0, -3.0, -0.5, 0.0, 0.5, 1.5, 3.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_the_kernel_is_trls_own(trl: Any, log_w: float, advantage: float) -> None:
    log_ratio = torch.full((1, 4), log_w / 4)
    advantages = torch.tensor([[advantage]])
    theirs = trl.GRPOTrainer.get_gamma_weights(advantages, log_ratio, torch.ones(1, 4), None)
    ours = vespo_kernel(torch.tensor([log_w]), advantages[0])
    torch.testing.assert_close(ours, theirs[0], rtol=1e-5, atol=1e-30)


def test_where_trl_clamps_and_we_do_not(trl: Any) -> None:
    """A token's log-ratio to +-20, and log W to [log 1e-8, 20]."""

    def phi(*log_ratios: float) -> tuple[float, float]:
        log_ratio = torch.tensor([log_ratios])
        theirs = trl.GRPOTrainer.get_gamma_weights(
            torch.ones(1, 1), log_ratio, torch.ones_like(log_ratio), None
        )
        return vespo_kernel(log_ratio.sum(-1), torch.ones(1)).item(), theirs.item()

    # A token at -30 that three others make up for: W = 1, and there e^10, whose phi is 0.
    ours, theirs = phi(-30.0, 10.0, 10.0, 10.0)
    assert (ours, theirs) == (1.0, 0.0)
    # Below log 1e-8 phi is e^(2 log W + 3), and there what it is at the floor, 2e-15.
    ours, theirs = phi(-10.0, -10.0)
    assert ours == pytest.approx(math.exp(-40 + 3), rel=1e-5)
    assert theirs == pytest.approx(1e-16 * math.exp(3), rel=1e-4)
    # Above, both are 0 long before the bound.
    assert phi(10.0, 15.0) == (0.0, 0.0)


def test_the_pages_trainer_has_the_loss_of_trls_own(trl: Any, tmp_path: Path) -> None:
    """Where the engine's log-probs are the old ones: elsewhere it takes what TRL cuts off."""
    inputs = batch(3, 0.1)
    inputs["sampling_per_token_logps"] = inputs["old_per_token_logps"]
    trainer = from_the_page("trl_losses.py", tmp_path).PolicyLossTrainer
    theirs = loss_of_trl(trl, inputs, ranks=2)
    assert_equal(loss_of_trl(trl, inputs, trainer, ranks=2), theirs)
    inputs = batch(3, 0.1)
    assert_equal(loss_of_trl(trl, inputs, trainer), loss_of_ours(inputs))


def test_the_pages_trainer_trains(trl: Any, tmp_path: Path) -> None:
    """A whole run of `GRPOTrainer`, tiny and on the CPU, beside one with TRL's own loss."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    from vespo_openrlhf.embedded.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    weights = []
    for trainer_class in (
        from_the_page("trl_losses.py", tmp_path).PolicyLossTrainer,
        trl.GRPOTrainer,
    ):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32,
                num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64,
                pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
        )  # fmt: skip
        trainer = trainer_class(
            model=model,
            reward_funcs=lambda completions, **_: [float(len(set(c))) for c in completions],
            args=trl.GRPOConfig(
                output_dir=str(tmp_path / "out"),
                loss_type="vespo",
                use_cpu=True,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=2,
                steps_per_generation=4,
                num_generations=4,
                max_completion_length=8,
                max_steps=4,
                learning_rate=1e-2,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["1+1=", "2+3=", "4+4=", "5-2="] * 4}),
            processing_class=tokenizer,
        )
        for when in (lambda: None, trainer.train):
            when()
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    start, ours, same_start, theirs = weights
    assert torch.equal(start, same_start)
    assert (ours - start).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_pages_loss_for_verl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for verl's registry, called as `verl/workers/utils/losses.py` does."""
    registry: dict[str, Any] = {}

    def register_policy_loss(name: str) -> Any:
        def register(function: Any) -> Any:
            registry[name] = function
            return function

        return register

    for name in ("verl", "verl.trainer", "verl.trainer.ppo", "verl.trainer.ppo.core_algos"):
        module = ModuleType(name)
        module.register_policy_loss = register_policy_loss  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    from_the_page("verl_losses.py", tmp_path)
    inputs = batch(4, 0.1)
    totals = {
        "dp_size": 2,
        "batch_num_tokens": inputs["num_items_in_batch"].item() / 2,
        "global_batch_size": None,
        "loss_scale_factor": None,
    }
    loss, metrics = registry["vespo"](
        old_log_prob=inputs["old_per_token_logps"],
        log_prob=inputs["log_probs"],
        advantages=inputs["advantages"][:, None].expand_as(inputs["log_probs"]),
        response_mask=inputs["completion_mask"],
        loss_agg_mode="token-mean",
        config=SimpleNamespace(global_batch_info=totals),
        rollout_is_weights=None,
    )
    (gradient,) = torch.autograd.grad(loss, inputs["log_probs"])
    assert_equal((loss.detach(), gradient), loss_of_ours(inputs, 2, anchor="old"))
    assert set(metrics) == {"actor/log_w", "actor/phi"}
