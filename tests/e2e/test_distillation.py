"""A teacher in the reference model's place, on samples that no engine made, on the real stack."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vespo_openrlhf.embedded.model import build_model, reproducible
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.reading import Recording

HERE = Path(__file__).parent
COEF = 0.75


@pytest.fixture(scope="module")
def teacher(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the student's tokenizer: a mixture, and other weights."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = AutoTokenizer.from_pretrained(untrained / "model")
    with reproducible(1):
        build_model(tokenizer, moe=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taught(
    train: Callable[..., Any],
    recording: Path,
    teacher: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """Four updates on any responses, whose log-probs are taken to be the student's first ones; with
    a share of the reward. And what the loss was given."""
    calls = tmp_path_factory.mktemp("calls")
    run = train(
        environment={"VESPO_TEST_CAPTURE": str(calls)},
        actor__policy_loss_type=f"{HERE / 'capturing_loss.py'}:capture",
        data__prompt_dataset=False,
        vllm__num_engines=False,
        reward__remote_url=False,
        offline__data=recording,
        offline__behaviour="initial",
        distill__teacher=teacher,
        distill__coef=COEF,
        distill__estimator="full",
        ref__num_gpus_per_node=1,
    )
    return run, [torch.load(path) for path in sorted(calls.iterdir())]


def test_advantages_are_what_the_teacher_says_of_each_token(
    taught: tuple[Any, list[dict[str, torch.Tensor]]], teacher: Path, recording: Path
) -> None:
    """Beside the reward's share, which is one number for all tokens of a sample. The heads compute
    it here, from what the whole vocabulary takes."""
    _, calls = taught
    assert len(calls) == 4
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    groups = Recording([recording], 4, Limits(10**6, 64, needs_log_probs=False))
    samples = iter([sample for group in groups for sample in group if sample is not None])
    shares = []
    for call in calls:
        for row, mask in enumerate(call["action_mask"].bool()):
            tokens = torch.tensor(next(samples).tokens[None])
            with torch.no_grad():
                log_probs = model(tokens).logits[:, :-1].log_softmax(-1)
            told = log_probs.gather(-1, tokens[:, 1:, None].long())[0, :, 0]
            told = told[mask[: len(told)]]
            rest = call["advantages"][row][mask] - COEF * (told - call["log_probs"][row][mask])
            torch.testing.assert_close(rest, rest[:1].expand_as(rest), rtol=1e-4, atol=1e-4)
            shares.append(rest[0].item() / (1 - COEF))
    assert next(samples, None) is None
    # Normalised within each group, as without a teacher.
    by_group = torch.tensor(shares).reshape(16, 4)
    torch.testing.assert_close(by_group.sum(-1), torch.zeros(16), rtol=0, atol=1e-2)
    assert by_group.abs().max() > 0.5


def test_the_kl_is_that_of_the_whole_vocabulary(
    taught: tuple[Any, list[dict[str, torch.Tensor]]],
    untrained: Path,
    teacher: Path,
    recording: Path,
) -> None:
    """Of the first update, which finds the first weights."""
    run, _ = taught
    models = [
        AutoModelForCausalLM.from_pretrained(p).eval() for p in (untrained / "model", teacher)
    ]
    groups = Recording([recording], 4, Limits(10**6, 64, needs_log_probs=False))
    found = []
    for sample in (sample for group in list(groups)[:4] for sample in group if sample is not None):
        tokens = torch.tensor(sample.tokens[None])
        with torch.no_grad():
            log_p, log_q = (model(tokens).logits[0, :-1].log_softmax(-1) for model in models)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        found.append(kl[torch.tensor(sample.action_mask[1:])])
    first = json.loads((run.folder / "updates.jsonl").read_text().splitlines()[0])
    assert first["capture/teacher_kl"] == pytest.approx(torch.cat(found).mean().item(), rel=1e-4)


def test_samples_of_an_unknown_policy_start_at_a_weight_of_1(
    taught: tuple[Any, list[dict[str, torch.Tensor]]],
) -> None:
    run, calls = taught
    mask = calls[0]["action_mask"].bool()
    gap = (calls[0]["log_probs"] - calls[0]["rollout_log_probs"])[mask]
    assert gap.abs().max() < 1e-5
    assert "Log-probs of the initial policy" in run.output
    (line,) = run.metrics
    assert line["capture/teacher_kl"] != 0
    assert line["lag/max"] == 3  # of the fourth update, from the first weights
