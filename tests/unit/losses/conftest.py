"""What the loss tests share: made-up batches, and OpenRLHF's own loss beside ours."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from vespo_openrlhf.losses import LossInputs
from vespo_openrlhf.losses.bench import load_openrlhf_loss

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def openrlhf_loss() -> ModuleType:
    """OpenRLHF's models/loss.py, from its file: its package needs flash-attn to be imported."""
    module = load_openrlhf_loss()
    if module is None:
        pytest.skip("OpenRLHF is not installed")
    return module


@pytest.fixture
def random_inputs() -> Callable[..., LossInputs]:
    """A factory of random batches with holes in the mask and one fully masked row."""

    def make(seed: int, batch: int = 6, tokens: int = 23, drift: float = 0.3) -> LossInputs:
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        log_probs = -2 * torch.rand(batch, tokens, generator=generator)
        old = log_probs + drift * noise(batch, tokens)
        mask = torch.rand(batch, tokens, generator=generator) < 0.7
        mask[:, 0] = False  # the first column is padding: no sign may be read from it
        mask[:, 1] = True
        if batch > 2:
            mask[batch // 2] = False
        return LossInputs(
            log_probs=log_probs.requires_grad_(),
            old_log_probs=old,
            advantages=noise(batch, 1).expand(batch, tokens).contiguous(),
            action_mask=mask,
            rollout_log_probs=old + drift / 3 * noise(batch, tokens),
        )

    return make
