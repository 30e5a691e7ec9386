"""A verifier that is busy or gone gives no reward, in whatever way the reward function asks it.

It is replaced by one that answers so at once; tests/integration/reward has real ones.
"""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.reward import make_reward_func, probe, verify
from vespo_openrlhf.reward.batch import batched
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.pool import client
from vespo_openrlhf.reward.scoring import scorer
from vespo_openrlhf.reward.verdict import REASONS, UNJUDGED

ALGEBRA = (r"so \boxed{x^2-1}", "(x-1)(x+1)")


@pytest.fixture(params=UNJUDGED)
def reason(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why the verifier does not judge."""

    def fail(*_: Any, **__: Any) -> Any:
        raise client.FailedError(request.param)

    monkeypatch.setattr(client, "call", fail)
    return str(request.param)


def careless(response: str, label: Any, prompt: str) -> dict[str, float]:
    return {"score": float(verify(response, label, prompt=prompt).correct), "mine": 1.0}


def broken(response: str, label: Any, prompt: str) -> float:
    verdict = verify(response, label, prompt=prompt)
    return {"correct": 1.0, "wrong": 0.0}[verdict.reason]


def own(response: str, label: Any, prompt: str) -> float:
    return 1.0


def mathematics(**options: Any) -> Any:
    chosen = RewardOptions(**options)
    return batched(scorer(chosen), chosen)


def functions() -> dict[str, Any]:
    target = f"{__file__}:own"
    return {
        "mathematics": mathematics(),
        "shaped": mathematics(format_reward=0.5),
        "a source": mathematics(sources={"": target}),
        "isolated": make_reward_func(own),
        "verify inside": make_reward_func(careless, isolated=False),
        "verify inside, and an error": make_reward_func(broken, isolated=False),
    }


@pytest.mark.parametrize("name", functions())
def test_no_reward_is_made_up(name: str, reason: str) -> None:
    response, gold = ALGEBRA
    result = functions()[name]([response], [""], [gold])
    assert math.isnan(result["rewards"].item())
    assert math.isnan(result["scores"].item())
    logs = result["extra_logs"]
    assert logs[reason] == 1.0
    assert logs["error"] == float(name.endswith("an error"))
    assert logs["length"] == len(response)
    assert all(math.isfinite(value) for value in logs.values())


def test_what_needs_no_worker_is_rewarded(reason: str) -> None:
    result = mathematics()([r"\boxed{4}", r"\boxed{5}", ALGEBRA[0]], [""] * 3, ["4", "4", "x+y"])
    assert result["rewards"].tolist()[:2] == [1.0, 0.0]
    assert math.isnan(result["rewards"][2])
    assert result["extra_logs"]["correct"] == result["extra_logs"][reason] == pytest.approx(1 / 3)


def test_a_score_s_own_error_is_a_zero() -> None:
    result = make_reward_func(broken, isolated=False)([r"\boxed{}"], [""], ["4"])
    assert result["rewards"].tolist() == [0.0]
    assert result["extra_logs"]["error"] == 1.0


def test_every_sample_of_a_function_logs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of it: OpenRLHF cannot batch samples with different keys."""
    options = RewardOptions(sources={"s": f"{__file__}:own"}, truncation_penalty=0.5)
    function = batched(scorer(options), options)

    def keys(response: str, label: Any) -> set[str]:
        return set(function([response], [""], [label])["extra_logs"])

    def fail(why: str) -> None:
        def call(*_: Any, **__: Any) -> Any:
            raise client.FailedError(why)

        monkeypatch.setattr(client, "call", call)

    usual = keys(r"\boxed{4}", "4")
    assert usual == {*REASONS, "length", "verify_ms", "error", "shaping_truncation"}
    assert keys("four", "4") == usual
    assert keys(r"\boxed{4}", {"no answer": 1}) == usual
    for why in ("timeout", "overloaded", "unavailable"):
        fail(why)
        assert keys(*ALGEBRA) == usual
        assert keys("any", {"answer": "4", "source": "s"}) == usual


def test_a_score_of_one_s_own_logs_the_same_too(monkeypatch: pytest.MonkeyPatch) -> None:
    function = make_reward_func(own)
    usual = {"length", "verify_ms", "error", "timeout", *UNJUDGED}
    replies: list[Any] = [{"result": 1.0}, {"error": "KeyError"}, {"unjudged": "overloaded"}]
    for reply in replies:
        monkeypatch.setattr(client, "call", lambda *_, reply=reply, **__: reply)
        assert set(function(["any"], [""], ["4"])["extra_logs"]) == usual


def test_a_probe_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    probe()

    def call(*_: Any, **__: Any) -> Any:
        raise client.FailedError("unavailable") from OSError("no room")

    monkeypatch.setattr(client, "call", call)
    with pytest.raises(ConnectionError, match="no room"):
        probe()


def load(path: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("user_reward", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


@pytest.mark.parametrize(
    ("lines", "needed"),
    [
        ("from vespo_openrlhf.reward.math_reward import label_problems, reward_func", True),
        ("def score(*_):\n    return 1.0\nreward_func = make_reward_func(score)", True),
        ("from vespo_openrlhf.reward import verify\nreward_func = print", True),
        ("reward_func = make_reward_func(lambda *_: 1.0, isolated=False)", False),
        ("reward_func = print", False),
    ],
)
def test_which_files_need_the_verifier(lines: str, needed: bool, tmp_path: Path) -> None:
    from vespo_openrlhf.reward.api import needs_verifier

    file = tmp_path / "mine.py"
    file.write_text(f"from vespo_openrlhf.reward import make_reward_func\n{lines}\n")
    assert needs_verifier(load(file)) is needed


def test_a_run_whose_verifier_is_gone_does_not_start(reason: str, tmp_path: Path) -> None:
    from vespo_openrlhf.data.checks import load_reward

    file = tmp_path / "mine.py"
    file.write_text("from vespo_openrlhf.reward.math_reward import reward_func\n")
    if reason == "overloaded":  # it is there
        assert callable(load_reward(str(file))["reward_func"])
        return
    with pytest.raises(ValueError, match=r"mine\.py: the verifier cannot be used"):
        load_reward(str(file))
