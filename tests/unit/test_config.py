"""Our flags: what each type of option reads, what it refuses, and what comes out of them."""

import argparse
import dataclasses
import json
from typing import Any

import pytest

from vespo_openrlhf import config
from vespo_openrlhf.options import Options, option
from vespo_openrlhf.reward.options import VARIABLE, RewardOptions
from vespo_openrlhf.scheduling.lag import LagOptions


@pytest.fixture(autouse=True)
def no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def parsed(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return vars(parser.parse_args(arguments))


def help_text() -> str:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return " ".join(parser.format_help().split())


def test_without_flags_every_group_has_its_own_defaults() -> None:
    flags = parsed()
    assert config.read(LagOptions, flags) == LagOptions()
    assert config.read(RewardOptions, flags) == RewardOptions()
    for group in config.GROUPS:
        names = {spec.name for spec in dataclasses.fields(group.options)}
        assert {f"{group.prefix}.{name}" for name in names} <= set(flags)


def test_lag_flags() -> None:
    flags = parsed(
        *"--lag.max 7 --lag.on_stale drop --lag.sync_every 2 --lag.target_ess 0.5".split()
    )
    assert config.read(LagOptions, flags) == LagOptions(7, "drop", 2, 0.5)
    with pytest.raises(
        ValueError, match=r"^--lag\.max must be at least 0, not -1: it is a number of updates"
    ):
        config.read(LagOptions, parsed("--lag.max", "-1"))
    with pytest.raises(ValueError, match=r"^--lag\.target_ess must be above 0 and below 1"):
        config.read(LagOptions, parsed("--lag.target_ess", "1.5"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--reward.require_box false", {"require_box": False}),
        ("--reward.require_box True", {"require_box": True}),
        ("--reward.timeout_s 2.5", {"timeout_s": 2.5}),
        (
            "--reward.overlong_max 2048 --reward.overlong_buffer 512 --reward.tokenizer some/model",
            {"overlong_max": 2048, "overlong_buffer": 512, "tokenizer": "some/model"},
        ),
        (
            "--reward.sources gsm8k=my.py:score code=other.py:run",
            {"sources": {"gsm8k": "my.py:score", "code": "other.py:run"}},
        ),
        (
            "--reward.language ru --reward.language_penalty 0.5 --reward.clip_low -0.5",
            {"language": "ru", "language_penalty": 0.5, "clip_low": -0.5},
        ),
    ],
)
def test_reward_flags(arguments: str, expected: dict) -> None:
    assert config.read(RewardOptions, parsed(*arguments.split())) == RewardOptions(**expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--reward.require_box maybe", "'maybe' is neither true nor false"),
        ("--reward.sources gsm8k", "'gsm8k' is not of the form NAME=VALUE"),
        ("--reward.overlong_max many", "invalid int value"),
        ("--reward.language xx", "invalid choice: 'xx'"),
        ("--lag.on_stale never", "invalid choice: 'never'"),
        ("--vespo.anchor new", "invalid choice: 'new'"),
        ("--vespo.loss_options tau_pos", "'tau_pos' is not of the form NAME=VALUE"),
    ],
)
def test_what_the_parser_refuses(arguments: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--reward.timeout_s 0", r"^--reward\.timeout_s must be"),
        ("--reward.overlong_max 2048", r"^--reward\.overlong_max counts tokens"),
        ("--reward.sources gsm8k=my.py", r"^--reward\.sources: expected gsm8k=file\.py:function"),
        ("--reward.clip_low 3", r"^--reward\.clip_low must be below clip_high"),
    ],
)
def test_reward_options_out_of_range_name_the_flag(arguments: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.read(RewardOptions, parsed(*arguments.split()))


def test_the_environment_gives_the_defaults_and_flags_win_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_environment = {"require_box": False, "format_reward": 0.1, "sources": {"a": "a.py:f"}}
    monkeypatch.setenv(VARIABLE, json.dumps(in_environment))
    assert config.read(RewardOptions, parsed()) == RewardOptions(**in_environment)
    assert config.read(
        RewardOptions, parsed("--reward.require_box", "true", "--reward.sources", "b=b.py:g")
    ) == RewardOptions(format_reward=0.1, sources={"b": "b.py:g"})


def test_a_bad_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"reqire_box": false}')
    with pytest.raises(ValueError, match=r"REWARD_OPTIONS: unknown \['reqire_box'\]"):
        parsed()


def test_help_says_what_holds_without_the_flag() -> None:
    text = help_text()
    assert "--reward.require_box {true,false}" in text
    assert '"answer:" (default: true)' in text
    assert "--lag.on_stale {wait,drop,keep}" in text
    assert "--reward.sources NAME=VALUE [NAME=VALUE ...]" in text
    assert "2N - 1 for N updates" in text


def test_the_losses_own_options_are_in_the_help_where_they_have_no_flag() -> None:
    text = help_text()
    assert "--vespo.loss_options NAME=VALUE [NAME=VALUE ...]" in text
    assert "; sapo: tau_pos=1.0 tau_neg=1.05; seq_mis: weight_low=0.5 weight_high=2.0;" in text
    assert "clip_low=" not in text
    flags = parsed("--vespo.loss_options", "tau_pos=2", "tau_neg=3")
    assert flags["vespo.loss_options"] == ["tau_pos=2", "tau_neg=3"]


@dataclasses.dataclass(frozen=True)
class OtherOptions(Options):
    weights: tuple[float, ...] = option((1.0,), "shares that add up to 100%")
    limit: int | None = option(None, "none")


def test_optional_and_repeated_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "GROUPS", (config.FlagGroup("x", "x", OtherOptions),))
    assert parsed() == {"x.weights": (1.0,), "x.limit": None}
    assert parsed("--x.weights", "1", "2", "--x.limit", "3") == {"x.weights": [1, 2], "x.limit": 3}
    assert "add up to 100%" in help_text()


@pytest.mark.parametrize(
    ("changed", "chunked"),
    [
        ({}, True),
        ({"actor.log_prob_head": "full"}, False),
        ({"ds.ring_attn_size": 2}, False),
        ({"ds.tensor_parallel_size": 2}, False),
        ({"ds.deepcompile": True}, False),
    ],
)
def test_log_probs_are_chunked_where_they_can_be(changed: dict[str, Any], chunked: bool) -> None:
    upstream = {"ds.ring_attn_size": 1, "ds.tensor_parallel_size": 1, "ds.deepcompile": False}
    assert config.chunked_log_probs(parsed() | upstream | changed) is chunked
