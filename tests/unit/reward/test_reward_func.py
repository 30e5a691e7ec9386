"""What OpenRLHF calls: tensors out, shaping apart from correctness, errors counted."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vespo_openrlhf import reward
from vespo_openrlhf.reward.batch import Score, batched
from vespo_openrlhf.reward.custom import make_reward_func
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.scoring import scorer
from vespo_openrlhf.reward.shaping import (
    foreign_share,
    overlong,
    repeated_share,
    shaping_terms,
    well_formed,
)

FOLDER = Path(reward.__file__).parent
PROMPT = "What is 2+2?\n"


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("reward_func", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def reward_func(**options: Any) -> Any:
    chosen = RewardOptions(**options)
    return batched(scorer(chosen), chosen)


def test_the_file_scores_one_by_one_and_in_batches() -> None:
    function = load(FOLDER / "math_reward.py")
    one = function([PROMPT + r"\boxed{4}<|im_end|>"], [PROMPT], ["4"])
    assert one["rewards"].tolist() == one["scores"].tolist() == [1.0]
    assert one["rewards"].dtype == torch.float32
    logs = one["extra_logs"]
    assert logs["correct"] == 1.0
    assert {"no_answer", "truncated", "timeout", "ambiguous", "length", "verify_ms"} <= set(logs)
    assert all(isinstance(value, float) for value in logs.values())
    many = function([PROMPT + r"\boxed{4}", PROMPT + "four"], [PROMPT] * 2, ["4", "4"])
    assert many["rewards"].tolist() == [1.0, 0.0]
    assert many["extra_logs"]["correct"] == many["extra_logs"]["no_answer"] == 0.5


def test_the_file_loads_from_anywhere(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u\n"
        f"s = u.spec_from_file_location('reward_func', {str(FOLDER / 'math_reward.py')!r})\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "print(m.reward_func([r'p\\boxed{7}'], ['p'], ['7'])['rewards'].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[1.0]"


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, reward; heavy = {'sympy', 'torch', 'math_verify', 'pebble', 'transformers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_box_in_the_prompt_is_not_the_response() -> None:
    prompt = r"Like \boxed{4}: what is 2+2?"
    result = load(FOLDER / "math_reward.py")([prompt + " It is four."], [prompt], ["4"])
    assert result["rewards"].tolist() == [0.0]
    truncated = load(FOLDER / "math_reward.py")([prompt[4:] + " It is four."], [prompt], ["4"])
    assert truncated["rewards"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("label", "answer", "right"),
    [
        ({"answer": "4", "alternatives": ["four"]}, "four", True),
        ({"answer": "C", "type": "choice"}, "(C) 5", True),
        ({"answer": "C", "type": "choice"}, "A, C", False),
        ({"answer": "C", "type": "choice"}, "5", False),
        ({"answer": "New York", "type": "text"}, r"\text{new york}", True),
        ({"answer": "New York", "type": "text"}, "york", False),
        ({"answer": ""}, "4", False),
        ({"answer": "ab", "type": "text"}, "ba", False),
    ],
)
def test_object_labels(label: dict[str, Any], answer: str, right: bool) -> None:
    result = reward_func()([f"\\boxed{{{answer}}}"], [""], [json.dumps(label)])
    assert result["rewards"].tolist() == [float(right)]


def test_a_source_has_its_own_scoring(tmp_path: Path) -> None:
    file = tmp_path / "words.py"
    file.write_text("def score(response, label, prompt):\n    return float(len(response))\n")
    function = reward_func(sources={"words": f"{file}:score"})
    labels = [{"answer": "4", "source": "words"}, {"answer": "4", "source": "other"}]
    assert function(["abcde"] * 2, ["", ""], labels)["rewards"].tolist() == [5.0, 0.0]


def test_shaping_stays_apart_from_correctness() -> None:
    function = reward_func(truncation_penalty=0.5, format_reward=0.25)
    result = function([r"<think>a</think>\boxed{4}"], [""], ["4"])
    assert result["scores"].tolist() == [1.0]
    assert result["rewards"].tolist() == [0.75]
    assert result["extra_logs"]["shaping_truncation"] == -0.5
    assert result["extra_logs"]["shaping_format"] == 0.25
    assert result["extra_logs"]["correct"] == 1.0
    ended = function([r"\boxed{4}<|im_end|>"], [""], ["4"])
    assert ended["rewards"].tolist() == [1.0]


def test_the_shaped_reward_is_clipped_once_at_the_end() -> None:
    function = reward_func(truncation_penalty=5.0, format_reward=4.5, clip_low=-0.5)
    assert function([r"<think>a</think>\boxed{4}"], [""], ["4"])["rewards"].tolist() == [0.5]
    assert function(["no"], [""], ["4"])["rewards"].tolist() == [-0.5]


def test_overlong_is_dapo_s() -> None:
    assert [overlong(n, 100, 20, 1.0) for n in (0, 80, 90, 100, 500)] == [0, 0, -0.5, -1, -1]


def test_overlong_counts_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vespo_openrlhf.reward.shaping._tokenizer",
        lambda _: lambda text, **_: {"input_ids": text.split()},
    )
    options = RewardOptions(overlong_max=10, overlong_buffer=4, tokenizer="any")
    assert shaping_terms("a " * 8, options) == {"overlong": -0.5}


def test_format_wants_one_block_of_thinking_then_an_answer() -> None:
    assert well_formed("<think>a</think> b<|im_end|>")
    for text in (
        "b",
        "<think>a",
        "a<think>b</think>c",
        "<think>a</think>",
        "<think>a</think><think>b</think>c",
    ):
        assert not well_formed(text), text


def test_repetition_is_the_share_of_repeated_ngrams() -> None:
    assert repeated_share("a b c d", 2) == 0.0
    assert repeated_share("a b a b a b", 2) == pytest.approx(1 - 2 / 5)
    assert repeated_share("a", 2) == 0.0


def test_language_leaves_mathematics_out() -> None:
    assert foreign_share(r"the answer $\alpha$ is \boxed{x}", "zh") == 1.0
    assert foreign_share(r"答案是 $x$", "zh") == 0.0
    assert foreign_share("да yes", "en") == pytest.approx(2 / 5)
    assert foreign_share("1 + 1", "en") == 0.0


def test_options_travel_in_the_environment() -> None:
    options = RewardOptions(require_box=False, sources={"a": "b.py:c"}, format_reward=0.1)
    assert RewardOptions.from_env({"REWARD_OPTIONS": options.to_env()}) == options
    assert RewardOptions.from_env({}) == RewardOptions()
    assert RewardOptions().to_env() == "{}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "JSON object"),
        ("{", "not JSON"),
        ('{"formt_reward": 1}', "unknown"),
        ('{"format_reward": -1}', "at least 0"),
        ('{"overlong_max": 5}', "tokenizer"),
        ('{"language_penalty": 1}', "needs language"),
        ('{"language": "xx"}', "one of"),
        ('{"timeout_s": 0}', "above 0 and at most 600"),
        ('{"clip_low": 3}', "below"),
        ('{"sources": {"a": "b"}}', "file.py"),
        ('{"format_reward": "1"}', "a number"),
        ('{"require_box": "false"}', "true or false"),
        ('{"repetition_ngram": 2.5}', "a whole number"),
        ('{"tokenizer": 5}', "text"),
        ('{"clip_low": "0"}', "a number"),
        ('{"sources": ["a"]}', "an object"),
        ('{"repetition_ngram": 1}', "at least 2"),
        ('{"overlong_max": 5, "tokenizer": "t", "overlong_buffer": 9}', "overlong_buffer"),
    ],
)
def test_a_user_s_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardOptions.from_env({"REWARD_OPTIONS": text})


def test_a_scorer_that_raises_costs_its_sample_alone() -> None:
    def score(response: str, label: Any, prompt: str) -> Score:
        if label == "bad":
            raise RuntimeError("no")
        return Score(math.nan if label == "nan" else 1.0)

    result = batched(score, RewardOptions())(["a"] * 3, [""] * 3, ["good", "bad", "nan"])
    assert result["rewards"].tolist() == [1.0, 0.0, 0.0]
    assert result["extra_logs"]["error"] == pytest.approx(2 / 3)


def write_custom(path: Path, body: str) -> Any:
    path.write_text(
        "from vespo_openrlhf.reward import make_reward_func\n\n"
        "def score(response, label, prompt):\n    "
        + body
        + "\n\nreward_func = make_reward_func(score, timeout_s=1.0)\n"
    )
    return load(path)


def test_a_score_of_one_s_own_runs_in_the_pool(tmp_path: Path) -> None:
    function = write_custom(
        tmp_path / "own.py",
        "return {'score': len(response) / 10, 'pid': __import__('os').getpid()}",
    )
    result = function(["p" + "x" * 5], ["p"], ["any"])
    assert result["rewards"].tolist() == [0.5]
    assert result["extra_logs"]["pid"] != os.getpid()


def test_a_score_that_hangs_is_killed(tmp_path: Path) -> None:
    function = write_custom(tmp_path / "hang.py", "return 9**9**9**9 > 1.0")
    result = function(["x"], [""], ["any"])
    assert result["rewards"].tolist() == [0.0]
    assert result["extra_logs"]["timeout"] == 1.0


@pytest.mark.parametrize(
    "body", ["raise KeyError('k')", "return 'x'", "return {'scor': 1}", "return float('nan')"]
)
def test_a_score_that_fails_is_counted(tmp_path: Path, body: str) -> None:
    result = write_custom(tmp_path / "fails.py", body)(["x"], [""], ["any"])
    assert result["rewards"].tolist() == [0.0]
    assert result["extra_logs"]["error"] == 1.0


def test_a_score_that_is_no_number_is_called_once_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tmp_path / "calls"
    body = f"open({str(calls)!r}, 'a').write('called '); return 'x'"
    result = write_custom(tmp_path / "text.py", body)(["x"], [""], ["any"])
    assert result["extra_logs"]["error"] == 1.0
    assert calls.read_text() == "called "
    assert "could not convert string to float: 'x'" in caplog.text


def test_a_score_may_log_what_it_likes(tmp_path: Path) -> None:
    function = write_custom(tmp_path / "logs.py", "return {'score': 1.0, 'error': 0.0}")
    assert function(["x"], [""], ["any"])["rewards"].tolist() == [1.0]


def test_a_score_that_a_worker_cannot_find_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="top level"):
        make_reward_func(lambda response, label, prompt: 1.0)
    with pytest.raises(ValueError, match="timeout_s"):
        make_reward_func(test_a_score_that_a_worker_cannot_find_is_a_mistake, timeout_s=0)  # type: ignore[arg-type]


def test_examples_score(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = load(FOLDER / "examples" / "multiple_choice.py")
    answers = [r"\boxed{B}", r"\boxed{\text{(B)}}", r"\boxed{A} or \boxed{B}", r"\boxed{A}", "B"]
    assert choices(answers, [""] * 5, ["B"] * 5)["rewards"].tolist() == [1, 1, 0, 0, 0]
    gym = load(FOLDER / "examples" / "reasoning_gym_tasks.py")
    label = json.dumps({"answer": "a b", "source": "reasoning_gym/any"})
    answers = [r"\boxed{a  b}", r"\boxed{a b c}", r"\boxed{xa b}", "a b"]
    assert gym(answers, [""] * 4, [label] * 4)["rewards"].tolist() == [1, 0, 0, 0]
