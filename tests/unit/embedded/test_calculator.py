"""The agent of two turns, its demonstrations, and how its episodes are counted."""

import json
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.agents.episode import Episode, Turn
from vespo_openrlhf.embedded.arithmetic import Problem, split_problems, write_jsonl
from vespo_openrlhf.embedded.calculator import MAX_OBSERVATION_TOKENS, Calculator, call
from vespo_openrlhf.embedded.model import IGNORED, build_model, calls, demonstrations, reproducible
from vespo_openrlhf.embedded.tokenizer import build_tokenizer, chat_text
from vespo_openrlhf.quickstart import episodes

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


def episode(turns: int, reward: float) -> Episode:
    played = tuple(Turn(10 * k, 10 * k + 4, "", "", 0.0, 0.0, 0.0) for k in range(turns))
    return Episode([], None, played, reward, reward, False, {}, "")


def test_episodes_are_counted_by_the_turn_that_they_ended_in() -> None:
    problems = [SUM, Problem(158, 267)]
    played = [episode(1, 0.0), episode(2, 1.0), episode(1, 1.0), episode(2, 1.0)]
    told = episodes.summary(problems, played, 2)
    assert told["avg@k"] == 0.75
    assert told["by_turn"] == {
        "1": {"share": 0.5, "accuracy": 0.5},
        "2": {"share": 0.5, "accuracy": 1.0},
    }
    assert told["length"]["mean"] == 6.0


def test_a_model_plays_the_problems_of_a_file(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    with reproducible(0):
        build_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "problems.jsonl", split_problems(0, [3])[0])
    out = tmp_path / "new" / "summary.json"
    arguments = ["--model", tmp_path / "model", "--problems", tmp_path / "problems.jsonl"]
    assert episodes.main([*map(str, arguments), "--out", str(out)]) == 0
    benchmarks = json.loads(out.read_text())["benchmarks"]
    assert benchmarks["heldout"]["problems"] == benchmarks["heldout-greedy"]["problems"] == 3
    assert benchmarks["heldout"]["repeats"] == episodes.REPEATS
    assert benchmarks["heldout"]["avg@k"] == 0.0
