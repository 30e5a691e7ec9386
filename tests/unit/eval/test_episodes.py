"""Agents under `vespo eval run`: what is recorded of them, resumed, summarised and shown.

The engine reads its turns off a script, so that episodes can be set against it by hand.
"""

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from vespo_openrlhf.agents.episode import Sampled
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.eval.__main__ import main
from vespo_openrlhf.eval.benchmarks.templates import Prompt
from vespo_openrlhf.eval.commands.tracking import numbers_of
from vespo_openrlhf.eval.engines import FAILED, Request, episodes
from vespo_openrlhf.eval.engines.episodes import EpisodeEngine, Play, turn_seed
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.judging.verdicts import judge_all

AGENT = """
import asyncio, pathlib, threading
from vespo_openrlhf.agents import Agent, Step

FOLDER = pathlib.Path(__file__).parent
REPLY = "=7"


class Calc(Agent):
    max_turns = 3

    def reset(self, prompt, label):
        self.label = label
        return prompt

    def step(self, action):
        if "+" in action and action[0] == "1":
            return Step(REPLY, reward=0.25, logs={"calls": 1})
        if action.startswith("2"):
            raise KeyError("no such tool")
        if action.startswith("3"):
            threading.Event().wait(20)
        return Step("unread", reward=float(self.label in action), done=True, score=0.5)

    def close(self):
        with open(FOLDER / "closed", "a") as file:
            file.write(".")
"""


class ScriptedEngine:
    """Samples what `says` makes of the text so far, the seed and the temperature."""

    def __init__(self, says: Callable[[str, int, float], str], capacity: int = 4) -> None:
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()
        self.capacity, self.max_length = capacity, 200
        self.waiting: deque[tuple[int, list[int], int, int, float]] = deque()
        self.says = says
        self.threads: set[int] = set()
        self.most, self.limits = 0, set[int]()
        self.closed = False

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def add_turn(
        self, number: int, tokens: list[int], max_tokens: int, seed: int, temperature: float
    ) -> None:
        self.threads.add(threading.get_ident())
        self.limits.add(max_tokens)
        self.waiting.append((number, tokens, max_tokens, seed, temperature))
        self.most = max(self.most, len(self.waiting))

    def step_turns(self) -> list[tuple[int, Sampled]]:
        self.threads.add(threading.get_ident())
        number, tokens, most, seed, temperature = self.waiting.popleft()
        text = self.says(self.tokenizer.decode(tokens), seed, temperature)
        ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
        cut = len(ids) > most
        return [(number, Sampled(ids[:most], None, "length" if cut else "stop"))]

    def close(self) -> None:
        self.closed = True


def asks_then_answers(text: str, seed: int, temperature: float) -> str:
    return "\\boxed{7}" if "=7" in text else "1+6"


def request(prompt: str = "6=", label: str = "7", seed: int = 5) -> Request:
    return Request("sums", prompt, 0, seed, Prompt(prompt, None), 1.0, label)


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "calc.py"
    path.write_text(AGENT)
    return path


@pytest.fixture
def play(agent: Path) -> Play:
    return Play(str(agent), timeout_s=5.0)


def test_an_episode_comes_back_with_its_turns(play: Play, agent: Path) -> None:
    scripted = ScriptedEngine(asks_then_answers)
    engine = EpisodeEngine(scripted, play, max_tokens=30)
    (completion,) = engine.generate([request()])
    engine.close()
    assert (completion.text, completion.finish_reason) == ("\\boxed{7}", "stop")
    assert completion.tokens == len(scripted.tokenizer("1+6\\boxed{7}")["input_ids"]) + 2
    turns = completion.episode["turns"]
    assert [list(turn) for turn in turns] == [["action", "observation", "reward", "seconds"]] * 2
    assert [(t["action"], t["observation"], t["reward"]) for t in turns] == [
        ("1+6", "=7", 0.25),
        ("\\boxed{7}", "", 1.0),
    ]
    assert completion.episode["agent"] == {
        "reward": 1.25, "score": 0.5, "logs": {"calls": 1.0, "turns": 2.0},
    }  # fmt: skip
    assert "first_observation" not in completion.episode  # it is the prompt
    assert scripted.limits == {30}
    assert scripted.closed
    assert (agent.parent / "closed").read_text() == "."


def test_the_engine_is_touched_by_the_thread_that_steps_it_alone(play: Play) -> None:
    scripted = ScriptedEngine(asks_then_answers)
    engine = EpisodeEngine(scripted, play, max_tokens=30)
    assert len(list(engine.generate([request(seed=i) for i in range(20)]))) == 20
    engine.close()
    assert scripted.threads == {threading.get_ident()}


def test_no_more_episodes_are_under_way_than_twice_what_the_engine_runs(play: Play) -> None:
    scripted = ScriptedEngine(asks_then_answers, capacity=3)
    engine = EpisodeEngine(scripted, play, max_tokens=30)
    assert len(list(engine.generate([request(seed=i) for i in range(40)]))) == 40
    engine.close()
    assert 3 <= scripted.most <= 6


def test_a_seed_belongs_to_episode_and_turn(play: Play) -> None:
    heard: dict[int, set[str]] = {}

    def says(text: str, seed: int, temperature: float) -> str:
        heard.setdefault(seed, set()).add(text)
        return asks_then_answers(text, seed, temperature)

    for order in (1, -1):
        engine = EpisodeEngine(ScriptedEngine(says), play, max_tokens=30)
        list(engine.generate([request(seed=i) for i in range(8)][::order]))
        engine.close()
    assert heard.keys() == {turn_seed(i, turn) for i in range(8) for turn in (0, 1)}
    assert len(heard) == 16  # the same in either order
    assert all(len(texts) == 1 for texts in heard.values())
    assert turn_seed(3, 0) == 3


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("2", "Calc failed: KeyError: 'no such tool'"),
        ("3", "the environment of Calc took more than 0.2 s"),
    ],
)
def test_what_raises_or_hangs_is_a_failed_request_and_the_others_go_on(
    says: str, told: str, agent: Path
) -> None:
    scripted = ScriptedEngine(
        lambda text, seed, _: says if seed < 3 else asks_then_answers(text, seed, 0.0)
    )
    engine = EpisodeEngine(scripted, Play(str(agent), timeout_s=0.2), max_tokens=30)
    found = {c.index: c for c in engine.generate([request(seed=i) for i in range(12)])}
    engine.close()
    assert {i for i, c in found.items() if c.finish_reason == FAILED} == {0, 1, 2}
    assert {found[i].error for i in range(3)} == {told}
    assert not any(c.server_fault or c.episode for c in found.values() if c.error)
    assert len((agent.parent / "closed").read_text()) == 12


def test_sampling_takes_nothing_from_the_environments_time(agent: Path) -> None:
    def says(text: str, seed: int, temperature: float) -> str:
        time.sleep(0.3)
        return asks_then_answers(text, seed, temperature)

    engine = EpisodeEngine(ScriptedEngine(says), Play(str(agent), timeout_s=0.2), max_tokens=30)
    assert [c.error for c in engine.generate([request(), request()])] == ["", ""]
    engine.close()


def test_where_the_engine_gives_way_agents_are_closed(play: Play, agent: Path) -> None:
    def gives_way(text: str, seed: int, temperature: float) -> str:
        raise RuntimeError("gone")

    engine = EpisodeEngine(ScriptedEngine(gives_way), play, max_tokens=30)
    with pytest.raises(RuntimeError, match="gone"):
        list(engine.generate([request()]))
    engine.close()
    assert (agent.parent / "closed").read_text() == "."


def test_the_last_turn_is_judged_by_what_it_has_read() -> None:
    """An observation may open the thinking, in which a box is no answer; what the model copies
    from a tool is one."""
    turns = [
        {"action": "calc", "observation": "\\boxed{7} is what the tool says", "reward": 0.0},
        {"action": "\\boxed{7} is what the tool says", "observation": "", "reward": 0.0},
    ]
    record = {"prompt": "1+6=", "gold": "7", "response": turns[1]["action"], "turns": turns}
    thinking = [{**turns[0], "observation": "Go on.<think>\n"}, turns[1]]
    right, unclosed = judge_all([record, {**record, "turns": thinking}], {})
    assert right["correct"]
    assert not unclosed["correct"]


@pytest.fixture
def evaluate(
    agent: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`vespo eval run --agent` on the sums with the scripted engine."""
    model = tmp_path / "model"
    build_tokenizer().save_pretrained(model)
    (model / "config.json").write_text('{"model_type": "qwen3"}')
    (model / "model.safetensors").write_bytes(b"weights")

    def says(text: str, seed: int, temperature: float) -> str:
        if text.startswith("2+"):
            return "2"
        if "=7" in text or seed % 2:
            a, b = text.split("\n")[0].split("+")
            return f"\\boxed{{{int(a) + int(b)}}}"
        return "1+6"

    def start(run: Any) -> EpisodeEngine:
        assert run.agent is not None
        return EpisodeEngine(ScriptedEngine(says), run.agent, run.options.max_tokens)

    monkeypatch.setattr("vespo_openrlhf.eval.running.execution.start_engine", start)

    def run(out: Path, *more: str) -> int:
        base = ["run", "--model", str(model), "--agent", str(agent), "--out", str(out), "--raw"]
        template = ["--template", "{problem}\n", "--max-tokens", "30"]
        return main([*base, *template, "--benchmarks", f"{problems}:2", *more])

    return run


def plain(folder: Path) -> list[dict[str, Any]]:
    """The records, sorted, without the seconds of their turns."""
    records = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    for record in records:
        for turn in record.get("turns", []):
            del turn["seconds"]
    return sorted(records, key=lambda record: (record["id"], record["repeat"]))


def test_records_resume_and_statistics_are_those_of_single_responses(
    evaluate: Callable[..., int], agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(out) == 1  # one problem's episodes fail
    whole = plain(out / "sums")
    failed = [record for record in whole if "error" in record]
    assert [record["id"] for record in failed] == ["sum-2"] * 2
    assert not any(record["correct"] for record in failed)
    assert all(record["correct"] for record in whole if "error" not in record)
    numbers = json.loads((out / "summary.json").read_text())["benchmarks"]["sums"]
    turns = [len(record["turns"]) for record in whole if "error" not in record]
    assert set(turns) == {1, 2}
    assert (numbers["avg@k"], numbers["error_rate"]) == (39 / 40, 1 / 40)
    assert numbers["agent"] == {
        "turns": pytest.approx(sum(turns) / 78),
        "reward": pytest.approx((78 + 0.25 * turns.count(2)) / 78),
        "score": 0.5,
        "logs": {"calls": pytest.approx(turns.count(2) / 78)},
        "by_turns": {str(n): {"episodes": turns.count(n), "avg": 1.0} for n in (1, 2)},
    }
    logged = numbers_of(json.loads((out / "summary.json").read_text()))
    assert logged["eval/sums/agent/calls"] == numbers["agent"]["logs"]["calls"]
    told = capsys.readouterr().out
    assert f"right by number of turns 1: 100.0 % of {turns.count(1)}, 2: 100.0 % of" in told

    path = out / "sums" / "generations.jsonl"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[:11]))
    evaluate(out)
    assert plain(out / "sums") == whole

    summary = (out / "summary.json").read_text()
    path.write_text(path.read_text().replace('"correct": true', '"correct": false'))
    assert main(["score", str(out)]) == 0
    assert plain(out / "sums") == whole
    again = json.loads((out / "summary.json").read_text())["benchmarks"]["sums"]
    assert again["agent"] == json.loads(summary)["benchmarks"]["sums"]["agent"]

    agent.write_text(agent.read_text().replace('"=7"', '"=8"'))
    assert evaluate(out) == 2
    error = capsys.readouterr().err
    assert "holds records of other settings: agent {'name': 'Calc'" in error
    assert evaluate(out, "--agent-timeout", "9", "--fresh") == 1


def test_a_page_shows_an_episode_by_turns(evaluate: Callable[..., int], tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    evaluate(out)
    assert main(["report", str(out), "--out", str(page)]) == 0
    html = page.read_text()
    assert "Accuracy in percent of the episodes with so many turns" in html
    assert "calls per episode" in html
    assert '"before":[["model",["1+6"]],["environment",["=7"]]]' in html
    assert "2 turns, reward 1.25" in html


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--endpoint", "http://127.0.0.1:9"], "leave --endpoint out"),
        (["--agent", "nowhere.py"], "there is no such file"),
        (["--agent-timeout", "0"], "must be above 0"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    more: list[str], told: str, evaluate: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert evaluate(tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err


def test_a_file_may_stand_elsewhere_and_hold_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = AGENT + "\n\nclass Other(Agent):\n    def step(self, action):\n        return Step()\n"
    (tmp_path / "two.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    play = Play("two.py:Other")
    monkeypatch.chdir("/")
    assert play.load().__name__ == play.as_json()["name"] == "Other"
    module = Play("vespo_openrlhf.embedded.calculator:Calculator")
    assert module.as_json()["name"] == "Calculator"


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("def __init__(self): raise SystemExit(3)", r"SystemExit\(3\)"),
        ("async def step(self, action): raise asyncio.CancelledError", "cancelled|CancelledError"),
    ],
)
def test_what_would_end_the_loop_is_one_episodes_failure(
    tmp_path: Path, trouble: str, told: str
) -> None:
    (tmp_path / "agent.py").write_text(
        "import asyncio\nfrom vespo_openrlhf.agents import Agent, Step\n\n\n"
        f"class Trouble(Agent):\n    def step(self, action): ...\n    {trouble}\n"
    )
    play = Play(str(tmp_path / "agent.py"), 30.0)
    played = EpisodeEngine(ScriptedEngine(lambda *_: "1"), play, max_tokens=30)
    (completion,) = played.generate([request()])
    assert completion.finish_reason == FAILED
    assert re.search(told, completion.error)
    played.close()


def test_an_agent_that_holds_all_episodes_up_ends_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "_GRACE_S", 0.2)
    monkeypatch.setattr(episodes, "CLOSE_SECONDS", 0.1)
    (tmp_path / "agent.py").write_text(
        "import time\nfrom vespo_openrlhf.agents import Agent, Step\n\n\n"
        "class Blocks(Agent):\n    async def step(self, action):\n        time.sleep(3)\n"
    )
    play = Play(str(tmp_path / "agent.py"), 0.1)
    played = EpisodeEngine(ScriptedEngine(lambda *_: "1"), play, max_tokens=30)
    with pytest.raises(EvaluationError, match="an async method of it blocks"):
        list(played.generate([request()]))
    played.close()
