"""Weights on their way to engines that may die or hang.

Stand-ins: an engine is an object that receives as `WeightReceiver` does and answers through
futures, of which the stand-in for Ray's `wait` and `get` makes sense; a process group hands tensors
from one thread to others. That group blocks until it is destroyed where a member is gone, as NCCL
does and gloo does not: NCCL cannot run here. Loop, buckets, threads and DeepSpeed's context are
real, on a group of one gloo rank.
"""

import queue
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from types import SimpleNamespace

import peft
import pytest
import torch
import torch.distributed as dist
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

from vespo_openrlhf.bridge import seams
from vespo_openrlhf.bridge.driver import engine_name
from vespo_openrlhf.bridge.errors import LostEnginesError, RefusedWeightsError
from vespo_openrlhf.bridge.weights import pieces, sender
from vespo_openrlhf.bridge.weights.checksum import checksums

NAMES = ["0.weight", "0.bias", "1.weight", "1.bias"]


class EndedError(Exception):
    """A broadcast's end where the group is destroyed."""


class Group:
    """A broadcast is over for all when every member has come to it, and not before."""

    def __init__(self, receivers: int) -> None:
        self.destroyed = threading.Event()
        self.entered = threading.Event()
        self._inboxes = [queue.SimpleQueue() for _ in range(receivers)]
        self._taken = threading.Semaphore(0)

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object) -> None:
        self.entered.set()
        for inbox in self._inboxes:
            inbox.put(tensor)
        for _ in self._inboxes:
            while not self._taken.acquire(timeout=0.01):
                if self.destroyed.is_set():
                    raise EndedError
        assert not self.destroyed.is_set()

    def receive(self, rank: int) -> torch.Tensor:
        while not self.destroyed.is_set():
            try:
                tensor = self._inboxes[rank - 1].get(timeout=0.01)
            except queue.Empty:
                continue
            self._taken.release()
            return tensor.clone()
        raise EndedError

    def destroy(self) -> None:
        self.destroyed.set()


class Engine:
    """Loads weights until the bucket at which something `happens`: it dies, hangs or refuses."""

    def __init__(self, happens: str = "", bucket: int = 0, join: str = "") -> None:
        self.received: list[str] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.joined: list[tuple[int, int]] = []
        self.group: Group | None = None
        self._happens, self._bucket, self._join, self._calls = happens, bucket, join, 0
        self.receive_weights = SimpleNamespace(remote=self._receive_weights)
        self.init_process_group = SimpleNamespace(remote=self._init_process_group)
        self.finish_weights = SimpleNamespace(remote=self._finish_weights)
        self.verify_weights = SimpleNamespace(remote=self._verify_weights)
        self.finished: list[int] = []  # how many weights had come
        self.verifying: list[int] = []
        self.sums: list[list[int] | None] = []

    def _init_process_group(self, address, port, rank, world, name, backend, use_ray) -> Future:
        answer: Future = Future()
        if self._join == "dies":
            answer.set_exception(RuntimeError("the actor died"))
            return answer
        self.rank = rank
        self.joined.append((rank, world))
        answer.set_result(None)
        return answer

    def _receive_weights(self, dtype, shapes, sums=None) -> Future:
        self.sums.append(sums)
        answer: Future = Future()
        here, self._calls = self._calls == self._bucket, self._calls + 1
        if here and self._happens == "dies":
            answer.set_exception(RuntimeError("the actor died"))
        elif not (here and self._happens == "hangs"):
            refusal = RefusedWeightsError("no such layer") if here and self._happens else None
            threading.Thread(
                target=self._load, args=(answer, shapes, dtype, refusal), daemon=True
            ).start()
        return answer

    def _verify_weights(self) -> Future:
        return self._finish_weights(self.verifying)

    def _finish_weights(self, calls: list[int] | None = None) -> Future:
        (self.finished if calls is None else calls).append(len(self.received))
        answer: Future = Future()
        answer.set_result(None)
        return answer

    def _load(self, answer: Future, shapes, dtype, refusal) -> None:
        try:
            flat = self.group.receive(self.rank)
            assert flat.dtype == dtype
            if refusal:
                raise refusal
            sizes = [torch.Size(shape).numel() for _, shape in shapes]
            for (name, shape), part in zip(shapes, flat.split(sizes), strict=True):
                self.received.append(name)
                self.weights[name] = part.view(shape)
            answer.set_result(None)
        except Exception as error:
            answer.set_exception(error)


class Trainer:
    """What `WeightPublisher` reads of an ActorPPOTrainer."""

    use_cuda_ipc = False

    def __init__(self, zero_stage: int = 2, *, verify_weights: bool = False) -> None:
        vllm = SimpleNamespace(
            sync_backend="gloo", tensor_parallel_size=1, verify_weights=verify_weights
        )
        ds = SimpleNamespace(zero_stage=zero_stage, tensor_parallel_size=1)
        self.args = SimpleNamespace(vllm=vllm, ds=ds)
        self.module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
        events = ("checkpoint_event_prologue", "checkpoint_event_epilogue")
        optimizer = SimpleNamespace(**dict.fromkeys(events, lambda: None))
        engine = SimpleNamespace(module=self.module, optimizer=optimizer)
        self.actor = SimpleNamespace(model=engine)


class Ray(SimpleNamespace):
    """Futures for references."""

    @staticmethod
    def wait(calls: list[Future], timeout: float) -> tuple[list[Future], list[Future]]:
        done, _ = wait(calls, timeout, FIRST_COMPLETED)
        ready = [call for call in calls if call in done][:1]
        return ready, [call for call in calls if call not in ready]

    @staticmethod
    def get(calls: list[Future]) -> list[object]:
        return [call.result() for call in calls]


@pytest.fixture(autouse=True)
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """The process groups that are made."""
    made: list[Group] = []

    def make(address: str, port: int, rank: int, world: int, device: object) -> Group:
        made.append(Group(world - 1))
        return made[-1]

    ray = Ray(util=SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"))
    monkeypatch.setattr(sender, "ray", ray)
    monkeypatch.setattr(sender.distributed_util, "stateless_init_process_group", make)
    return made


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the parameters that the loop has come to: where ZeRO 3 gathers them from all
    ranks, and so where these would wait for a rank that has left the loop."""
    sizes: list[int] = []

    def gather(parameters: list) -> nullcontext:
        sizes.extend(parameter.numel() for parameter in parameters)
        return nullcontext()

    monkeypatch.setattr(pieces.deepspeed.zero, "GatheredParameters", gather)
    return sizes


def names(*indices: int) -> list[str]:
    return [engine_name(index) for index in indices]


class Publisher(sender.WeightPublisher):
    """Gives the engines the group that was made; without Ray they cannot make their ends of it."""

    def _send(self, bucket, engines, verifying) -> None:
        for engine in engines:
            engine.group = self._group
        super()._send(bucket, engines, verifying)


def one_each(trainer: Trainer, stall_seconds: float = 30.0) -> Publisher:
    """A bucket for each parameter."""
    return Publisher(trainer, stall_seconds, bucket_bytes=1)


def test_every_engine_gets_every_parameter_and_the_group_stays(groups) -> None:
    trainer, engines = Trainer(), [Engine(), Engine()]
    publisher = Publisher(trainer)
    for _ in range(2):
        with torch.no_grad():
            for parameter in trainer.module.parameters():
                parameter += 1
        publisher.publish(names(0, 1), engines)
        for engine in engines:
            assert list(engine.weights) == NAMES
            for name, parameter in trainer.module.named_parameters():
                assert torch.equal(engine.weights[name], parameter)
    assert [engine.finished for engine in engines] == [[4, 8], [4, 8]]  # after the last of each
    assert [engine.joined for engine in engines] == [[(1, 3)], [(2, 3)]]
    assert len(groups) == 1
    assert not groups[0].destroyed.is_set()


def test_weights_to_be_verified_are_sent_again_with_their_sums(groups, gathered) -> None:
    trainer, engines = Trainer(zero_stage=3, verify_weights=True), [Engine(), Engine()]
    sums = [checksums([weight]) for weight in trainer.module.parameters()]
    assert one_each(trainer).publish(names(0, 1), engines).messages == 8
    assert gathered == [6, 3, 6, 2] * 2
    for engine in engines:
        assert engine.received == NAMES * 2
        assert (engine.verifying, engine.finished) == ([4], [4, 8])
        assert engine.sums == [None] * 4 + sums


@pytest.mark.parametrize(
    ("happens", "reason"), [("dies", "the actor died"), ("hangs", "no answer for 1 s")]
)
def test_a_broadcast_that_would_block_for_ever_is_ended(groups, gathered, happens, reason) -> None:
    trainer, engines = Trainer(zero_stage=3), [Engine(), Engine(happens, bucket=1)]
    publisher = one_each(trainer, stall_seconds=30 if happens == "dies" else 1)
    with pytest.raises(LostEnginesError, match=reason):
        publisher.publish(names(0, 1), engines)
    (group,) = groups
    assert group.entered.is_set()
    assert group.destroyed.is_set()
    assert gathered == [6, 3, 6, 2]  # all of it, for the sake of the other ranks
    assert engines[0].received[:1] == NAMES[:1]
    assert len(engines[0].received) <= 2  # and nothing more is sent
    assert engines[0].finished == []

    # Those that come in their place.
    newcomers = [Engine(), Engine()]
    publisher.publish([engine_name(i, restarts=1) for i in (0, 1)], newcomers)
    assert [engine.received for engine in newcomers] == [NAMES] * 2
    assert len(groups) == 2


def test_a_refusal_is_not_taken_for_a_lost_engine(groups, gathered) -> None:
    engines = [Engine(), Engine("refuses", bucket=2)]
    with pytest.raises(RefusedWeightsError, match="no such layer"):
        one_each(Trainer(zero_stage=3, verify_weights=True)).publish(names(0, 1), engines)
    assert gathered == [6, 3, 6, 2] * 2
    assert engines[0].verifying == []
    assert groups[0].destroyed.is_set()


def test_an_error_of_our_own_does_not_wait_for_the_engines(groups, gathered, monkeypatch) -> None:
    def broken(self, tensor: torch.Tensor, src: int, stream: object) -> None:
        raise ConnectionError("connection closed by peer")

    monkeypatch.setattr(Group, "broadcast", broken)
    with pytest.raises(LostEnginesError, match="connection closed by peer"):
        one_each(Trainer(zero_stage=3)).publish(names(0), [Engine()])
    assert gathered == [6, 3, 6, 2]
    assert groups[0].destroyed.is_set()


def test_after_a_failure_even_the_same_engines_need_a_new_group(groups) -> None:
    engines = [Engine(), Engine("dies")]
    publisher = Publisher(Trainer())
    with pytest.raises(LostEnginesError):
        publisher.publish(names(0, 1), engines)
    publisher.publish(names(0, 1), engines)
    assert len(groups) == 2
    assert all(engine.received[-4:] == NAMES for engine in engines)


def test_a_group_is_made_for_a_newcomer_once_and_the_old_one_destroyed(groups) -> None:
    engines = [Engine(), Engine()]
    publisher = Publisher(Trainer())
    publisher.publish(names(0, 1), engines)
    newcomer = Engine()
    present = ["engine-0", engine_name(1, restarts=1)]
    publisher.publish(present[1:], [newcomer])  # alone, where no sync of all is due
    publisher.publish(present, [engines[0], newcomer])
    publisher.publish(present, [engines[0], newcomer])
    assert newcomer.joined == [(1, 2), (2, 3)]
    assert [group.destroyed.is_set() for group in groups] == [True, True, False]
    assert newcomer.received == NAMES * 3
    assert engines[0].received == NAMES * 3
    assert engines[1].received == NAMES


def test_a_group_that_cannot_be_made_is_an_error_at_the_end_too(
    groups, gathered, monkeypatch
) -> None:
    """Its making blocks on this side until all are there."""
    made = sender.distributed_util.stateless_init_process_group
    never = threading.Event()
    monkeypatch.setattr(
        sender.distributed_util, "stateless_init_process_group", lambda *a: never.wait()
    )
    publisher = one_each(Trainer(zero_stage=3))
    engines = [Engine(), Engine(join="dies")]
    with pytest.raises(LostEnginesError, match="the actor died"):
        publisher.publish(names(0, 1), engines)
    assert gathered == [6, 3, 6, 2]
    assert engines[0].received == []
    monkeypatch.setattr(sender.distributed_util, "stateless_init_process_group", made)
    publisher.publish(names(0), engines[:1])
    assert engines[0].received == NAMES


def test_the_other_ranks_only_take_part(groups, gathered, monkeypatch) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    engine = Engine()
    one_each(Trainer(zero_stage=3)).publish(names(0), [engine])
    assert gathered == [6, 3, 6, 2]
    assert engine.joined == []
    assert groups == []


def test_the_seam_holds_and_moves(monkeypatch) -> None:
    seams._weight_broadcast()
    # As if a worker kept nothing to be told of.
    monkeypatch.setattr(WorkerWrap, "init_process_group", lambda self: None)
    with pytest.raises(AttributeError, match="no longer holds"):
        seams._weight_broadcast()


@pytest.mark.parametrize("adapted", [False, True])
def test_engines_on_the_trainers_gpus_read_every_weight_where_it_lies(
    monkeypatch, adapted: bool
) -> None:
    """On a GPU the handle is CUDA's; here it is that of a CPU tensor, opened in the same way."""
    monkeypatch.setattr(sender, "get_physical_gpu_id", lambda: "gpu-0")
    monkeypatch.setattr(sender, "ray", Ray)
    received: dict[str, torch.Tensor] = {}
    emptied = []

    def read(name, dtype, shape, ipc_handles, empty_cache) -> Future:
        emptied.append(empty_cache)
        rebuild, arguments = ipc_handles["gpu-0"]
        received[name] = rebuild(*arguments).clone()
        assert (received[name].dtype, received[name].shape) == (dtype, shape)
        answer: Future = Future()
        answer.set_result(None)
        return answer

    trainer = Trainer()
    whole = {name: weight.clone() for name, weight in trainer.module.state_dict().items()}
    if adapted:
        lora = peft.LoraConfig(r=1, lora_alpha=1, target_modules=["0"], init_lora_weights=False)
        adapter = peft.inject_adapter_in_model(lora, trainer.module)[0]
        whole["0.weight"] += adapter.get_delta_weight("default")
    trainer.use_cuda_ipc = True
    engine = Engine()
    engine.update_weight_cuda_ipc = SimpleNamespace(remote=read)
    sent = sender.WeightPublisher(trainer).publish(names(0), [engine])
    assert sent.messages == 4  # OpenRLHF's workers take one weight a call
    assert engine.finished == [0]
    assert list(received) == NAMES
    assert emptied == [False, False, False, True]
    for name, weight in whole.items():
        torch.testing.assert_close(received[name], weight)
