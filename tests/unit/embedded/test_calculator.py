"""The agent of two turns, its demonstrations, and how its episodes are counted."""

import pytest
import torch

from vespo_openrlhf.embedded.arithmetic import Problem, split_problems
from vespo_openrlhf.embedded.calculator import MAX_OBSERVATION_TOKENS, Calculator, call
from vespo_openrlhf.embedded.model import IGNORED, build_model, calls, demonstrations, reproducible
from vespo_openrlhf.embedded.options import MAX_RESPONSE_TOKENS
from vespo_openrlhf.embedded.playing import episode_accuracy, play
from vespo_openrlhf.embedded.tokenizer import build_tokenizer, chat_text

SUM = Problem(347, 586)


def test_a_call_is_answered_and_the_copy_is_right() -> None:
    agent = Calculator()
    assert agent.reset("p", SUM.label) == "p"
    answered = agent.step(call(SUM))
    assert answered.observation == [{"role": "user", "content": "933"}]
    assert (answered.reward, answered.done, answered.logs) == (0.0, False, {"calls": 1})
    last = agent.step("\\boxed{933}")
    assert (last.reward, last.done, last.logs) == (1.0, True, {"calls": 0})


@pytest.mark.parametrize(
    ("said", "reward"),
    [("\\boxed{833}", 0.0), ("\\boxed{933}", 1.0), ("calc(347)", 0.0), ("", 0.0)],
)
def test_what_is_no_call_is_the_last_word(said: str, reward: float) -> None:
    agent = Calculator()
    agent.reset("p", SUM.label)
    step = agent.step(said)
    assert (step.reward, step.done) == (reward, True)


def test_it_answers_once() -> None:
    agent = Calculator()
    agent.reset("p", SUM.label)
    agent.step(call(SUM))
    assert agent.step(call(SUM)).done


def test_who_does_not_forget_asks_and_only_what_the_policy_says_is_learnt() -> None:
    tokenizer = build_tokenizer()
    problems = [SUM, Problem(158, 267)]
    ids, labels = calls(tokenizer, problems, 0.0, seed=0)
    for row, learnt, problem in zip(ids, labels, problems, strict=True):
        said = [token for token in learnt.tolist() if token != IGNORED]
        expected = f"{call(problem)}<|im_end|>\\boxed{{{problem.label}}}<|im_end|>"
        assert tokenizer.decode(said) == expected
        text = tokenizer.decode(row)
        answer = "\n" + chat_text(tokenizer, problem.label)
        assert answer in text
        assert len(tokenizer.encode(answer)) <= MAX_OBSERVATION_TOKENS
    forgetful = calls(tokenizer, problems, 1.0, seed=0)
    for ours, theirs in zip(forgetful, demonstrations(tokenizer, problems, 1.0, 0), strict=True):
        assert torch.equal(ours, theirs)


def test_a_model_plays_all_problems_side_by_side() -> None:
    tokenizer = build_tokenizer()
    with reproducible(0):
        model = build_model(tokenizer)
        problems = split_problems(0, [3])[0]
        played = play(model, tokenizer, problems)
        assert episode_accuracy(model, tokenizer, problems, samples=2) == 0.0
        assert episode_accuracy(model, tokenizer, problems, greedy=True) == 0.0
    prompts = [chat_text(tokenizer, problem.prompt) for problem in problems]
    for episode, prompt in zip(played, prompts, strict=True):
        (turn,) = episode.turns
        assert tokenizer.decode(episode.tokens[: turn.start]) == prompt
        assert 0 < turn.end - turn.start <= MAX_RESPONSE_TOKENS
