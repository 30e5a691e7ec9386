"""Weights on their way to engines that may die, through OpenRLHF's own broadcast loop.

Stand-ins: Ray is a module with `put` and `get` over values that are there at once, an engine an
object that writes down its calls, the process group one that writes down its broadcasts. The loop
over the parameters is `ActorPPOTrainer.broadcast_to_vllm`, on a group of one gloo rank.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from openrlhf.trainer.ray import ppo_actor

from vespo_openrlhf.bridge import weights
from vespo_openrlhf.bridge.driver import engine_name


class Answer:
    """What `remote` returns: a value, or the error that `get` raises."""

    def __init__(self, value: object = None, error: Exception | None = None) -> None:
        self.value, self.error = value, error


def get(answers: "Answer | list[Answer]") -> object:
    if isinstance(answers, list):
        return [get(answer) for answer in answers]
    if answers.error is not None:
        raise answers.error
    return answers.value


class Engine:
    """Takes weights until it is told to die before its n-th."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.received: list[str] = []
        self._dies_at = dies_at
        self.update_weight = SimpleNamespace(remote=self._update_weight)
        self.init_process_group = SimpleNamespace(remote=lambda *a, **k: Answer())
        self.reset_prefix_cache = SimpleNamespace(remote=lambda: Answer())

    def _update_weight(self, name: str, dtype, shape, empty_cache: bool) -> Answer:
        if len(self.received) == self._dies_at:
            return Answer(error=RuntimeError("the actor died"))
        self.received.append(name)
        return Answer()


class Group:
    """A process group; `breaks_at`: its n-th broadcast finds that somebody has left."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.sent: list[torch.Tensor] = []
        self._breaks_at = breaks_at

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object) -> None:
        if len(self.sent) == self._breaks_at:
            raise ConnectionError("connection closed by peer")
        self.sent.append(tensor)


class Trainer:
    """What `WeightPublisher` and OpenRLHF's loop read of an ActorPPOTrainer."""

    use_cuda_ipc = False
    broadcast_to_vllm = ppo_actor.ActorPPOTrainer.broadcast_to_vllm

    def __init__(self, engines: list[Engine], group: Group) -> None:
        vllm = SimpleNamespace(
            sync_with_ray=False,
            sync_backend="gloo",
            num_engines=len(engines),
            enable_prefix_caching=True,
        )
        ds = SimpleNamespace(zero_stage=2, tensor_parallel_size=1)
        self.args = SimpleNamespace(vllm=vllm, ds=ds)
        self.strategy = SimpleNamespace(args=self.args)
        self.vllm_engines: list = engines
        self.module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
        self.actor = SimpleNamespace(model=SimpleNamespace(module=self.module))
        self._model_update_group: Group | None = group
        self.groups_made: list[int] = []

    def _init_vllm_sync_group(self, backend: str) -> None:
        self.groups_made.append(self.args.vllm.num_engines)
        answers = [
            engine.init_process_group.remote(backend=backend) for engine in self.vllm_engines
        ]
        get(answers)
        self._model_update_group = Group()


NAMES = ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(put=Answer, get=get)
    monkeypatch.setattr(weights, "ray", ray)
    monkeypatch.setattr(ppo_actor, "ray", ray)


@pytest.fixture(autouse=True)
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the parameters that the loop has come to: where ZeRO 3 gathers them from all
    ranks, and so where these would wait for a rank that has left the loop."""
    sizes: list[int] = []

    def gather(parameters: list, enabled: bool) -> nullcontext:
        sizes.extend(parameter.numel() for parameter in parameters)
        return nullcontext()

    monkeypatch.setattr(ppo_actor.deepspeed.zero, "GatheredParameters", gather)
    return sizes


def names(*indices: int) -> list[str]:
    return [engine_name(index) for index in indices]


def test_every_engine_gets_every_parameter_and_the_group_stays(gathered) -> None:
    engines, group = [Engine(), Engine()], Group()
    trainer = Trainer(engines, group)
    publisher = weights.WeightPublisher(trainer)
    for times in (1, 2):
        publisher.publish(names(0, 1), engines)
        assert [engine.received for engine in engines] == [NAMES * times] * 2
    assert trainer._model_update_group is group
    assert trainer.groups_made == []
    sent = zip(group.sent, trainer.module.parameters(), strict=False)
    assert all(torch.equal(tensor, parameter) for tensor, parameter in sent)
    assert gathered == [6, 3, 6, 2] * 2


@pytest.mark.parametrize("lost", ["engine", "group"])
def test_the_loop_goes_on_to_its_end_without_an_engine_and_then_raises(gathered, lost) -> None:
    engines = [Engine(), Engine(dies_at=1 if lost == "engine" else None)]
    group = Group(breaks_at=1 if lost == "group" else None)
    trainer = Trainer(engines, group)
    publisher = weights.WeightPublisher(trainer)
    with pytest.raises(RuntimeError if lost == "engine" else ConnectionError):
        publisher.publish(names(0, 1), engines)
    assert gathered == [6, 3, 6, 2]  # all of it, for the sake of the other ranks
    assert engines[0].received == NAMES[:2]  # and nothing more is sent
    assert len(group.sent) == 2 if lost == "engine" else 1
    assert trainer._model_update_group is None

    # The one that is left; its group is made anew.
    publisher.publish(names(0), engines[:1])
    assert engines[0].received == NAMES[:2] + NAMES
    assert trainer.groups_made == [1]
    assert trainer.args.vllm.num_engines == 1


def test_after_a_failure_even_the_same_engines_need_a_new_group(gathered) -> None:
    engines = [Engine(), Engine()]
    trainer = Trainer(engines, Group(breaks_at=0))
    publisher = weights.WeightPublisher(trainer)
    with pytest.raises(ConnectionError):
        publisher.publish(names(0, 1), engines)
    publisher.publish(names(0, 1), engines)
    assert trainer.groups_made == [2]
    assert all(engine.received[-4:] == NAMES for engine in engines)


def test_a_group_is_made_for_a_newcomer_once(gathered) -> None:
    engines = [Engine(), Engine()]
    trainer = Trainer(engines, Group())
    publisher = weights.WeightPublisher(trainer)
    newcomer = Engine()
    present = ["engine-0", engine_name(1, restarts=1)]
    publisher.publish(present[1:], [newcomer])  # alone, where no sync of all is due
    publisher.publish(present, [engines[0], newcomer])
    publisher.publish(present, [engines[0], newcomer])
    assert trainer.groups_made == [1, 2]
    assert newcomer.received == NAMES * 3
    assert engines[0].received == NAMES * 2
    assert engines[1].received == []


def test_a_group_that_cannot_be_made_is_an_error_at_the_end_too(gathered) -> None:
    trainer = Trainer([Engine()], Group())
    newcomer = Engine()
    dead = Answer(error=RuntimeError("the actor died"))
    newcomer.init_process_group = SimpleNamespace(remote=lambda *a, **k: dead)
    publisher = weights.WeightPublisher(trainer)
    with pytest.raises(RuntimeError, match="the actor died"):
        publisher.publish([engine_name(0, restarts=1)], [newcomer])
    assert gathered == [6, 3, 6, 2]
    assert newcomer.received == []


def test_the_other_ranks_only_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    trainer = SimpleNamespace(
        vllm_engines=None,
        use_cuda_ipc=False,
        args=SimpleNamespace(vllm=SimpleNamespace(sync_with_ray=False)),
        broadcast_to_vllm=lambda: calls.append("broadcast"),
    )
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    weights.WeightPublisher(trainer).publish(names(0), [Engine()])
    assert calls == ["broadcast"]
    assert trainer.vllm_engines is None
