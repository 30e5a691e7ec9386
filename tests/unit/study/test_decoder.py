"""The decoder: sampling and training see one distribution."""

import pytest
import torch

from vespo_openrlhf.embedded.arithmetic import split_problems
from vespo_openrlhf.study.tasks.addition import END, PAD, Addition


@pytest.fixture
def samples():
    torch.manual_seed(0)
    model = Addition().policy(width=16, layers=2, heads=2)
    # Untrained, <end> would hardly ever come: make it likely, so that lengths differ.
    with torch.no_grad():
        model.head.weight[END] += 0.3
    (problems,) = split_problems(0, [40])
    return model, model.sample(
        Addition().encode_prompts(problems), torch.Generator().manual_seed(0)
    )


def test_the_sampler_reports_what_the_trainer_recomputes(samples) -> None:
    model, drawn = samples
    recomputed = model.log_probs(drawn.ids)
    torch.testing.assert_close(
        recomputed[drawn.mask], drawn.log_probs[drawn.mask], atol=1e-5, rtol=0
    )


def test_responses_stop_at_their_end(samples) -> None:
    _, drawn = samples
    for row in drawn.responses.tolist():
        length = row.index(END) + 1 if END in row else len(row)
        assert all(token == PAD for token in row[length:])
    lengths = drawn.mask.sum(dim=1)
    assert lengths.min() < lengths.max()
    assert (drawn.log_probs[~drawn.mask] == 0).all()
    assert (drawn.entropy[drawn.mask] > 0).all()


def test_the_same_generator_draws_the_same(samples) -> None:
    model, drawn = samples
    prompts = drawn.ids[:, :8]
    again = model.sample(prompts, torch.Generator().manual_seed(0))
    assert torch.equal(again.ids, drawn.ids)


def test_a_bfloat16_sampler_reports_the_distribution_it_drew_from(samples) -> None:
    model, drawn = samples
    drawn_16 = model.bfloat16().sample(drawn.ids[:, :8], torch.Generator().manual_seed(0))
    assert drawn_16.log_probs.dtype == torch.float32
    assert (drawn_16.log_probs[drawn_16.mask] < 0).all()
