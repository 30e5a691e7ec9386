"""The agent that says "try again"."""

from __future__ import annotations

import asyncio

import pytest
from transformers import PreTrainedTokenizerFast

from vespo_openrlhf.agents import feedback
from vespo_openrlhf.agents.episode import Episode, run_episode
from vespo_openrlhf.agents.feedback import FeedbackAgent
from vespo_openrlhf.reward import Verdict

from .conftest import Script

END = "<|im_end|>"


def play(agent: FeedbackAgent, policy: Script, label: str = "42", room: int = 999) -> Episode:
    return asyncio.run(run_episode(agent, "6*7=", label, policy, policy.tokenizer, room))


@pytest.mark.parametrize(
    ("tries", "reward", "first", "last"),
    [("R", 1, 1, 1), ("WR", 0.5, 0, 1), ("WWR", 0.25, 0, 1), ("WWW", 0, 0, 0)],
)
def test_the_later_it_is_right_the_less_it_is_worth(
    chatml: PreTrainedTokenizerFast, tries: str, reward: float, first: int, last: int
) -> None:
    """Judged by the verifier itself."""
    says = {"R": r"\boxed{\frac{84}{2}}", "W": r"\boxed{7}"}
    played = play(FeedbackAgent(), Script(chatml, *(says[t] + END for t in tries)))
    assert (played.reward, played.score, played.truncated) == (reward, reward, False)
    counted = {"tries": len(tries), "turns": len(tries), "right_first": first, "right_last": last}
    assert played.logs == counted
    again = f"\n<|im_start|>user\nThat is not right. Try again.{END}\n<|im_start|>assistant\n"
    assert [turn.observation for turn in played.turns] == [again] * (len(tries) - 1) + [""]


def test_an_episode_that_the_room_ends_has_its_logs(chatml: PreTrainedTokenizerFast) -> None:
    played = play(FeedbackAgent(), Script(chatml, "7" + END), room=20)
    assert played.truncated
    assert played.logs == {"tries": 1, "turns": 1, "right_first": 0, "right_last": 0}


def test_tries_words_and_the_verdict_are_the_subclasss(chatml: PreTrainedTokenizerFast) -> None:
    class Words(FeedbackAgent):
        rewards = (2.0,) * 10
        again = "no"

        def is_right(self, answer: str, label: str) -> bool:
            return label in answer

    says = ["so"] * 9 + ["the word"]
    played = play(Words(), Script(chatml, *says), label="word")
    assert (played.reward, len(played.turns)) == (2.0, 10)


def test_a_label_that_says_more(chatml: PreTrainedTokenizerFast) -> None:
    label = '{"answer": "B", "type": "choice"}'
    assert play(FeedbackAgent(), Script(chatml, r"\boxed{(b)}"), label=label).reward == 1


def test_what_the_prompt_has_is_no_answer(chatml: PreTrainedTokenizerFast) -> None:
    agent = FeedbackAgent()
    agent.reset(r"Is it \boxed{42}?", "42")
    assert not agent.step(r"Is it \boxed{42}?").done
    assert agent.step(r"It is \boxed{42}").done


def test_no_verdict_is_no_reward(
    chatml: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verifier that is gone cannot be had in a unit test: its verdict stands in."""
    gone = Verdict(False, None, "unavailable")
    monkeypatch.setattr(feedback, "judge_label", lambda *arguments: gone)
    with pytest.raises(RuntimeError, match="no verdict: unavailable"):
        play(FeedbackAgent(), Script(chatml, r"\boxed{42}"))
