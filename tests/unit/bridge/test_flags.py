"""Flags made consistent, and what is refused, without OpenRLHF."""

import math
import os
from pathlib import Path

import pytest

from vespo_openrlhf import config, cpu
from vespo_openrlhf.bridge.flags import complete, resolve
from vespo_openrlhf.bridge.loss import build_loss
from vespo_openrlhf.bridge.roles import logical_gpus
from vespo_openrlhf.bridge.rules.loss import UPSTREAM_DEFAULTS
from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.cpu import flags as cpu_flags
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.scheduling import make_policy


@pytest.fixture(autouse=True)
def no_reward_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """`resolve` sets the variable for good; here it goes with the test."""
    monkeypatch.setenv("REWARD_OPTIONS", "")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_active", lambda: False)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_active", lambda: True)


@pytest.mark.usefixtures("on_gpu")
def test_a_loss_on_rollout_log_probs_asks_the_engine_for_them_and_says_so(
    defaults: dict[str, object],
) -> None:
    flags = dict(defaults)
    notes = resolve(flags)
    assert flags["algo.advantage.is_correction_level"] == "token"
    assert len(notes) == 1
    assert "--algo.advantage.is_correction_level off -> token" in notes[0]


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("name", ["ppo", "gspo"])
def test_openrlhfs_own_losses_are_left_alone_on_a_gpu(
    name: str, defaults: dict[str, object]
) -> None:
    """Their flags, but for those of the loss itself where nobody gave them."""
    given = {"actor.eps_clip": 0.1, "actor.dual_clip": 2.0, "actor.loss_agg_mode": "token-mean"}
    flags = defaults | {"actor.policy_loss_type": name, "vespo.anchor": "old"} | given
    before = dict(flags)
    assert resolve(flags) == []
    assert flags == before


@pytest.mark.usefixtures("on_gpu")
def test_a_run_folder_takes_what_openrlhf_writes(tmp_path, defaults: dict[str, object]) -> None:
    flags = defaults | {"run.dir": str(tmp_path), "ckpt.path": "/elsewhere"}
    resolve(flags)
    assert flags["ckpt.output_dir"] == str(tmp_path / "model")
    assert flags["logger.tensorboard_dir"] == str(tmp_path / "tensorboard")
    assert flags["ckpt.path"] == "/elsewhere"


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("name", "changes", "clip"),
    [
        ("gspo", {}, [3e-4, 4e-4]),
        ("ppo", {}, [0.2, 0.28]),
        ("gmpo", {}, [0.4, 0.4]),
        ("gspo", {"actor.eps_clip_low_high": [0.1, 0.2]}, [0.1, 0.2]),
        ("gspo", {"actor.eps_clip": 0.2}, [0.2, 0.2]),
        ("ppo", {"actor.eps_clip": 0.1}, [0.1, 0.1]),
        ("vespo", {}, [0.2, 0.2]),
    ],
)
@pytest.mark.parametrize("anchor", ["rollout", "old"])
def test_the_clip_that_a_worker_gets_is_the_methods_own(
    name: str, changes: dict, clip: list, anchor: str, defaults: dict[str, object]
) -> None:
    """OpenRLHF fills the flag with its --actor.eps_clip between our rules and the workers.

    With the anchor "old" the loss is OpenRLHF's own, and the paper's is still the paper's.
    """
    flags = defaults | {"actor.policy_loss_type": name, "vespo.anchor": anchor} | changes
    notes = resolve(flags)
    again = dict(flags)
    resolve(again)
    assert again == flags
    if flags["actor.eps_clip_low_high"] is None:
        flags["actor.eps_clip_low_high"] = [flags["actor.eps_clip"]] * 2
    assert flags["actor.eps_clip_low_high"] == clip
    assert any("eps_clip_low_high" in note for note in notes) == (not changes and name != "vespo")
    options = build_loss(flags).options
    if "clip_low" in options:
        assert [options["clip_low"], options["clip_high"]] == clip


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("anchor", ["rollout", "old"])
@pytest.mark.parametrize(
    ("name", "flag", "own", "given"),
    [
        ("sapo", "actor.loss_agg_mode", "seq-mean-token-mean", "token-mean"),
        ("vespo", "actor.loss_agg_mode", "token-mean", "seq-mean-token-sum"),
        ("ppo", "actor.loss_agg_mode", "token-mean", "seq-mean-token-mean"),
        ("ppo", "actor.dual_clip", 3.0, math.inf),
    ],
)
def test_what_is_not_given_is_what_the_loss_was_published_with(
    name: str, flag: str, own: object, given: object, anchor: str, defaults: dict[str, object]
) -> None:
    flags = defaults | {"actor.policy_loss_type": name, "vespo.anchor": anchor}
    notes = "".join(resolve(flags))
    option = flag.removeprefix("actor.")
    assert flags[flag] == build_loss(flags).options[option] == own
    assert (f"--{flag} -> {own}" in notes) == (own != UPSTREAM_DEFAULTS[flag])
    flags = defaults | {"actor.policy_loss_type": name, "vespo.anchor": anchor, flag: given}
    assert f"--{flag}" not in "".join(resolve(flags))
    assert flags[flag] == build_loss(flags).options[option] == given


@pytest.mark.usefixtures("on_cpu")
def test_every_change_for_the_cpu_is_announced(defaults: dict[str, object]) -> None:
    flags = dict(defaults)
    notes = "\n".join(resolve(flags))
    for flag, value in {"ds.param_dtype": "fp32", "ds.zero_stage": 0}.items():
        assert flags[flag] == value
        assert f"--{flag} {defaults[flag]} -> {value}" in notes
    assert "vllm.tensor_parallel_size" not in notes


@pytest.mark.parametrize(
    ("flag", "value"),
    [("ds.packing_samples", True), ("vllm.tensor_parallel_size", 2)],
)
def test_what_a_cpu_cannot_do_is_refused(
    flag: str, value: object, defaults: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=f"--{flag} is not available on a CPU"):
        cpu_flags.adapt(defaults | {flag: value})


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [
        ({}, 3),  # one trainer, two engines
        ({"algo.kl.init_coef": 0.01}, 11),
        ({"reward.remote_url": None}, 11),
        ({"algo.kl.init_coef": 0.01, "train.colocate_actor_ref": True}, 3),
        ({"algo.kl.init_coef": 0.01, "train.colocate_all": True, "train.async_enable": False}, 1),
        ({"algo.kl.init_coef": 0.01, "train.colocate_all": True}, 3),  # the models, not the engines
        ({"algo.advantage.estimator": "gae", "reward.remote_url": None}, 19),
        (
            {
                "algo.advantage.estimator": "gae",
                "reward.remote_url": None,
                "train.colocate_critic_reward": True,
            },
            11,
        ),
    ],
)
def test_logical_gpus_are_those_the_placement_groups_ask_for(
    changes: dict, gpus: int, defaults: dict[str, object]
) -> None:
    assert logical_gpus(defaults | changes) == gpus


def test_all_linear_may_be_given_by_its_name(defaults: dict[str, object]) -> None:
    flags = defaults | {"ds.lora.rank": 4, "ds.lora.target_modules": ["all-linear"]}
    complete(flags)
    assert flags["ds.lora.target_modules"] == "all-linear"  # a list peft would look up as a module


@pytest.mark.usefixtures("on_gpu")
def test_the_file_of_a_users_loss_is_found_from_every_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defaults: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "def plain(inputs):\n    return -inputs.log_probs.mean(), {}\n"
    )
    flags = defaults | {"actor.policy_loss_type": "own.py:plain"}
    resolve(flags)
    monkeypatch.chdir("/")
    assert build_loss(flags).name == f"{tmp_path}/own.py:plain"


@pytest.mark.usefixtures("on_gpu")
def test_the_file_of_a_users_policy_is_found_from_every_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defaults: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from vespo_openrlhf.scheduling.policies.fifo import Fifo\n\nclass Mine(Fifo):\n    pass\n"
    )
    flags = defaults | {"lag.policy": "own.py:Mine"}
    resolve(flags)
    monkeypatch.chdir("/")
    config = scheduler_config(flags)
    assert config.lag.policy == f"{tmp_path}/own.py:Mine"
    assert type(make_policy(config)).__name__ == "Mine"


def test_an_ablation_of_vespo_is_refused_for_a_loss_that_ignores_it(
    defaults: dict[str, object],
) -> None:
    flags = defaults | {"actor.policy_loss_type": "sapo", "vespo.length_normalisation": "sqrt"}
    with pytest.raises(ValueError, match="sapo knows nothing of it"):
        build_loss(flags)


@pytest.mark.usefixtures("on_gpu")
def test_the_rewards_options_go_to_the_environment_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defaults: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    flags = defaults | {
        "reward.require_box": False,
        "reward.sources": ["gsm8k=my.py:score"],
        "reward.overlong_max": 8192,
        "actor.model_name_or_path": "model",
    }
    notes = "\n".join(resolve(flags))
    options = RewardOptions.from_env(os.environ)
    assert options == config.read(RewardOptions, flags)
    assert not options.require_box
    assert options.sources == {"gsm8k": f"{tmp_path}/my.py:score"}
    assert options.tokenizer == str(tmp_path / "model")
    assert "--reward.tokenizer -> model" in notes
