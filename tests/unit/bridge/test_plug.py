"""What is put under OpenRLHF's names, as far as it can be seen without Ray."""

from typing import Any

import pytest
from vllm.config import SchedulerConfig

from vespo_openrlhf.bridge import plug
from vespo_openrlhf.bridge.offline.trainer import OfflineTrainer
from vespo_openrlhf.bridge.plug import Engines, Plugs, RayStart, Trainers
from vespo_openrlhf.bridge.trainer import ScheduledTrainer


class RemoteClass:
    """A Ray actor class whose actors are the arguments they are made with."""

    def options(self, **options: Any) -> "RemoteClass":
        return self

    def remote(self, **arguments: Any) -> dict[str, Any]:
        return arguments


@pytest.mark.parametrize("in_flight", [64, 256, 2048, 2049, 8192])
def test_vllm_takes_as_many_sequences_as_are_in_flight(in_flight: int) -> None:
    engines = Engines(RemoteClass())
    engines.max_num_seqs = in_flight
    made = engines.options(num_gpus=1).remote(model="m", max_logprobs=5)
    assert made.pop("model") == "m"
    assert (made.pop("logprobs_mode"), made.pop("max_logprobs")) == ("processed_logprobs", 1)
    assert made.pop("disable_log_stats") is True
    assert SchedulerConfig.default_factory(**made).max_num_seqs == in_flight


@pytest.fixture
def plugs(monkeypatch: pytest.MonkeyPatch) -> Plugs:
    monkeypatch.setattr(plug.cpu, "is_active", lambda: False)
    return Plugs(RayStart(lambda: None), Engines(RemoteClass()), Trainers())


def took(plugs: Plugs, defaults: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The flags as OpenRLHF gets them."""
    flags = defaults | {"vllm.tensor_parallel_size": 2, "vllm.num_engines": 2}
    flags |= {"actor.num_nodes": 2, "actor.num_gpus_per_node": 4, "algo.kl.init_coef": 0}
    flags |= {name.replace("__", "."): value for name, value in changes.items()}
    plugs.take(flags)
    return flags


def test_a_recording_needs_no_engine(plugs: Plugs, defaults: dict[str, Any]) -> None:
    """Though OpenRLHF packs samples, and puts models on the same GPUs, only beside as many."""
    flags = took(plugs, defaults, offline__data=["x"], vllm__num_engines=0)
    assert plugs.trainers.kind is OfflineTrainer
    assert flags["vllm.num_engines"] * flags["vllm.tensor_parallel_size"] == 8
    assert plugs.engines.create(pytest.fail) is None


def test_engines_for_evaluations_are_made(plugs: Plugs, defaults: dict[str, Any]) -> None:
    flags = took(plugs, defaults, offline__data=["x"])
    assert flags["vllm.num_engines"] == 2
    assert plugs.engines.create(lambda *args, **kwargs: (args, kwargs), 2, seed=1) == (
        (2,),
        {"seed": 1},
    )


def test_a_teacher_takes_a_reference_models_place(plugs: Plugs, defaults: dict[str, Any]) -> None:
    assert took(plugs, defaults)["algo.kl.init_coef"] == 0
    assert plugs.trainers.kind is ScheduledTrainer
    assert took(plugs, defaults, distill__teacher="m")["algo.kl.init_coef"] > 0
    recorded = took(plugs, defaults, distill__teacher="recorded", offline__data=["x"])
    assert recorded["algo.kl.init_coef"] == 0
