"""Weights over gloo to engine processes that are killed or stopped in the middle of it, under Ray.

The engine actor is a stand-in that holds the real `WeightReceiver` where vLLM would. Publisher,
receiver, process groups, processes, their deaths and Ray's errors are real.
"""

import os
import signal
from types import SimpleNamespace

import pytest
import ray
import torch

from vespo_openrlhf.bridge.errors import LostEnginesError, RefusedWeightsError

STALL_SECONDS = 10.0


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def make_engine(happens: str):
    """An engine to which something `happens` at its second bucket."""

    @ray.remote(num_cpus=0)
    class Engine:
        def __init__(self) -> None:
            from vespo_openrlhf.bridge.weights.receiver import WeightReceiver

            class Worker(WeightReceiver):
                device = torch.device("cpu")
                model_config = SimpleNamespace(dtype=torch.float32)
                vllm_config = None

                def __init__(self) -> None:
                    self.loaded = {}
                    model = torch.nn.Module()
                    model.load_weights = self.load
                    self.model_runner = SimpleNamespace(model=model)

                def load(self, weights) -> None:
                    if happens == "refuses" and self.loaded:
                        raise ValueError("no such layer")
                    self.loaded.update(weights)

            torch.distributed.init_process_group(
                "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
            )
            self.worker = Worker()

        def init_process_group(self, *args) -> None:
            self.worker.init_process_group(*args)

        def receive_weights(self, dtype, shapes) -> None:
            from vespo_openrlhf.bridge.errors import RefusedWeightsError

            if self.worker.loaded and happens == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.worker.loaded and happens == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            if refusal := self.worker.receive_weights(dtype, shapes):
                raise RefusedWeightsError(refusal)

        def finish_weights(self) -> None:
            assert self.worker.finish_weights() == ""

        def loaded(self) -> dict[str, list]:
            return {name: tensor.tolist() for name, tensor in self.worker.loaded.items()}

    return Engine.remote()


def make_engines(*happens: str) -> list:
    """One for each of what `happens`; they are up: what takes long from here on is an update."""
    engines = [make_engine(each) for each in happens]
    ray.get([engine.loaded.remote() for engine in engines])
    return engines


@pytest.fixture(scope="module")
def trainer():
    """A trainer of one rank, with a bucket for each parameter."""

    @ray.remote(num_cpus=0)
    class Trainer:
        def __init__(self) -> None:
            from vespo_openrlhf.bridge.weights.sender import WeightPublisher

            torch.distributed.init_process_group(
                "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
            )
            self.module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
            trainer = SimpleNamespace(
                use_cuda_ipc=False,
                args=SimpleNamespace(
                    vllm=SimpleNamespace(
                        sync_backend="gloo", tensor_parallel_size=1, verify_weights=False
                    ),
                    ds=SimpleNamespace(zero_stage=2, tensor_parallel_size=1),
                ),
                actor=SimpleNamespace(model=SimpleNamespace(module=self.module)),
            )
            self.publisher = WeightPublisher(trainer, STALL_SECONDS, bucket_bytes=1)

        def publish(self, names, engines) -> dict[str, list]:
            self.publisher.publish(names, engines)
            return {name: weight.tolist() for name, weight in self.module.named_parameters()}

    return Trainer.remote()


@pytest.fixture(scope="module")
def sound() -> dict:
    """Two engines to which nothing happens, by name. One takes long to start, so the tests share
    them, and the newcomer of one is an old one in the next."""
    return dict(zip(("first", "second"), make_engines("", ""), strict=True))


@pytest.mark.parametrize(
    ("happens", "error", "message"),
    [
        ("dies", LostEnginesError, "the weights did not reach every engine"),
        ("stops", LostEnginesError, "no answer for 10 s"),
        ("refuses", RefusedWeightsError, "ValueError: no such layer"),
    ],
)
def test_an_update_ends_with_an_engine_and_new_ones_are_given_it(
    trainer, sound: dict, happens: str, error: type[Exception], message: str
) -> None:
    def publish(engines: dict) -> dict[str, list]:
        return ray.get(trainer.publish.remote(list(engines), list(engines.values())))

    sent = publish(sound)
    assert ray.get([engine.loaded.remote() for engine in sound.values()]) == [sent, sent]

    failing, newcomer = make_engines(happens, "")
    name, lost = next(iter(sound.items()))
    with pytest.raises(error, match=message):
        publish({name: lost, "failing": failing})

    del sound[name]
    sound[f"after {happens}"] = newcomer
    publish(sound)
    assert ray.get(newcomer.loaded.remote()) == sent
    for engine in (lost, failing):
        ray.kill(engine)
