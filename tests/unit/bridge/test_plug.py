"""What is put under OpenRLHF's names, as far as it can be seen without Ray."""

from typing import Any

import pytest
from vllm.config import SchedulerConfig

from vespo_openrlhf.bridge.plug import Engines


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
