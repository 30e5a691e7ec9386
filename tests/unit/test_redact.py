"""What counts as a secret, and where one is found."""

import json
import pickle
from types import SimpleNamespace

import pytest

from vespo_openrlhf.redact import REDACTED, hide, is_secret, redact

SECRETS = (
    "logger.wandb.key",
    "hf_token",
    "HF_TOKEN",
    "WANDB_API_KEY",
    "openai_api_key",
    "apiKey",
    "api-key",
    "api_keys",
    "token",
    "access_token",
    "auth_token",
    "aws_secret_access_key",
    "AWS_SESSION_TOKEN",
    "client_secret",
    "db.password",
    "passwd",
    "credentials",
    "Authorization",
    "basic_auth",
    "--logger.wandb.key",
)
HARMLESS = (
    "data.input_key",
    "data.label_key",
    "data.image_key",
    "ckpt.best_metric_key",
    "rollout.max_new_tokens",
    "rollout.max_tokens_per_gpu",
    "max_num_batched_tokens",
    "reward.tokenizer",
    "eos_token",
    "pad_token",
    "stop_tokens",
    "eos_token_id",
    "stop_token_ids",
    "num_key_value_heads",
    "actor.loss_agg_mode",
    "algo.advantage.is_correction_level",
    "keyboard",
    "secretary",
    "tokens_per_second",
    "author",
    "logger.wandb.project",
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret(name)
    assert redact({name: "abc"}) == {name: REDACTED}
    assert redact({name: None}) == {name: None}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_sounds_like_one_stays(name: str) -> None:
    assert not is_secret(name)
    assert redact({name: "abc"}) == {name: "abc"}


@pytest.mark.parametrize(
    "hidden",
    [
        {"engine_options": {"hf_token": "SECRET", "max_model_len": 8}},
        {"headers": [{"Authorization": "Bearer SECRET"}]},
        {"api_keys": ["SECRET", "SECRET2"]},
        {"options": '{"hf_token": "SECRET", "n": [1, {"password": "SECRET"}]}'},
        {"reward.remote_url": "http://me:SECRET@host:8000/score?x=1"},
        {"reward.remote_url": ["https://SECRET@host/a", "https://host/b?n=1&api_key=SECRET&k=2"]},
        {"vespo.loss_options": ["beta=1", "hf_token=SECRET"]},
        {"argv": ["--logger.wandb.key", "SECRET", "--logger.wandb.key=SECRET"]},
        SimpleNamespace(logger=SimpleNamespace(wandb=SimpleNamespace(key="SECRET"))),
    ],
)
def test_a_secret_is_found_wherever_it_stands(hidden: object) -> None:
    shown = redact(hidden)
    assert "SECRET" not in str(shown)
    assert REDACTED in str(shown)
    assert redact(shown) == shown  # so that what was written redacted can be compared with it


@pytest.mark.parametrize(
    "plain",
    [
        {"a": 1, "b": [1.5, None, True], "c": "text", "eps": (0.2, 0.28)},
        {"path": "/home/me@work/model", "url": "https://host/@me/x?tab=2"},
        {"template": "{question}\nAnswer:", "json": '{"max_model_len":  8}', "empty": ""},
        {"pairs": ["gsm8k=file.py:score"]},
        {"hf_token": True, "max_new_tokens": 32, "token": None, "key": ""},
    ],
)
def test_all_else_comes_back_as_it_was(plain: dict) -> None:
    assert redact(plain) == plain
    assert json.dumps(redact(plain)) == json.dumps(plain)


def test_a_hidden_flag_works_and_does_not_show_itself() -> None:
    key = hide("SECRET", "logger.wandb.key")
    urls = hide("http://me:SECRET@a/score,http://b/score", "reward.remote_url")
    assert (key, urls) == ("SECRET", "http://me:SECRET@a/score,http://b/score")
    flags = SimpleNamespace(key=pickle.loads(pickle.dumps(key)), urls=urls.split(","))
    assert str(flags) == "namespace(key='***', urls=['http://***@a/score', 'http://b/score'])"
    assert f"{key}" == str(key) == "SECRET"
    for plain in ("prompt", 3, None, ["gsm8k=file.py:score"]):
        assert type(hide(plain, "data.input_key")) is type(plain)
    pairs = hide(["beta=1", "hf_token=SECRET"], "vespo.loss_options")
    assert repr(pairs) == "['beta=1', 'hf_token=***']"
