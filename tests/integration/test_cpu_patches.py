"""Each patch of the CPU stack, held against the installed upstream."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vespo_openrlhf import cpu
from vespo_openrlhf.cpu.flash_attention import _FUNCTIONS
from vespo_openrlhf.cpu.weight_sync import GlooBroadcastGroup

HERE = Path(__file__).parent
_HANGS_S = 300  # what is started here is done in seconds
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="inert where CUDA is there")


def run_fresh(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """The output of `code` in an interpreter of its own."""
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=_HANGS_S,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nothing_at_all_happens_where_cuda_is_available() -> None:
    """A stand-in for a GPU machine: torch says that there is CUDA."""
    output = run_fresh(
        """
        import sys, torch
        torch.cuda.is_available = lambda: True
        before = torch.cuda.current_device
        from vespo_openrlhf import cpu
        cpu.install()
        print(cpu.is_active(), torch.cuda.current_device is before)
        print("vespo_openrlhf.cpu.patches" in sys.modules, "flash_attn" in sys.modules)
        """
    )
    assert output.split() == ["False", "True", "False", "False"]


def test_the_cpu_can_be_forced_where_there_is_a_gpu() -> None:
    code = """
        import torch
        from vespo_openrlhf import cpu
        print(cpu.is_active(), torch.cuda._parse_visible_devices())
        """
    environment = {cpu.FORCE_VARIABLE: "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert run_fresh(code, environment=environment).split() == ["True", "[]"]


def test_torchs_cuda_calls_answer_with_the_cpu() -> None:
    cpu.install()
    assert torch.zeros(1, device=torch.cuda.current_device()).device.type == "cpu"
    assert torch.cuda.synchronize() is None
    assert torch.cuda.empty_cache() is None


def test_openrlhf_takes_float32_and_still_refuses_nonsense() -> None:
    cpu.install()
    from openrlhf.models import actor  # noqa: F401  (imports the function by name)
    from openrlhf.utils.utils import convert_to_torch_dtype

    assert convert_to_torch_dtype("fp32") == torch.float32
    assert convert_to_torch_dtype("bf16") == torch.bfloat16
    with pytest.raises(ValueError, match="Invalid param_dtype"):
        convert_to_torch_dtype("int7")


def test_openrlhfs_replay_buffer_lands_on_the_cpu() -> None:
    cpu.install()
    from openrlhf.trainer.ppo_utils import NaiveReplayBuffer

    assert NaiveReplayBuffer(4).target_device == torch.device("cpu")


def test_flash_attention_imports_and_says_what_to_do_when_called() -> None:
    cpu.install()
    from openrlhf.models import ring_attn_utils

    assert "flash_attn.bert_padding" in _FUNCTIONS
    with pytest.raises(RuntimeError, match=r"leave out --ds\.packing_samples"):
        ring_attn_utils.unpad_input(None, None)


def test_the_gradient_norm_is_the_true_one_before_clipping_and_without(
    run_on_deepspeed: Callable[..., str],
) -> None:
    output = run_on_deepspeed("deepspeed_gradient_norm.py", 0.1, 0)
    lines = [line for line in output.splitlines() if line.startswith("norms")]
    assert len(lines) == 2
    for line in lines:
        reported, true = map(float, line.split()[1:])
        assert reported == pytest.approx(true, rel=1e-5)
        assert reported > 0.1


def test_parameters_that_zero_3_gathers_at_once_are_whole(
    run_on_deepspeed: Callable[..., str],
) -> None:
    output = run_on_deepspeed("deepspeed_gathering.py", ranks=2)
    assert "torn 0" in output.splitlines()


def test_stock_openrlhfs_worker_receives_a_weight() -> None:
    """bench_step.py runs stock OpenRLHF beside ours, whose engines have a receiver of their own."""
    cpu.install()
    from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

    loaded: list = []
    model = SimpleNamespace(load_weights=lambda weights: loaded.extend(weights))
    worker = SimpleNamespace(
        _model_update_group=SimpleNamespace(broadcast=lambda tensor, src: tensor.fill_(2.0)),
        model_runner=SimpleNamespace(model=model),
    )
    WorkerWrap.update_weight(worker, "w", torch.float32, torch.Size([2, 3]))
    ((name, weight),) = loaded
    assert (name, weight.device.type) == ("w", "cpu")
    assert torch.equal(weight, torch.full((2, 3), 2.0))


def receiver(port: int, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "weight_receiver.py"), str(port), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line == "ready\n":
            break
    return process


def test_weights_cross_from_trainer_to_engine_over_gloo() -> None:
    port = free_port()
    engine = receiver(port)
    group = GlooBroadcastGroup("127.0.0.1", port, rank=0, world_size=2)
    weight = torch.arange(6.0).reshape(3, 2).T  # not contiguous, as a sliced parameter may be
    bias, head = torch.tensor([7.0, 8.0]), torch.tensor([[9.0, 10.0]])
    group.broadcast(torch.cat([weight.reshape(-1), bias]), src=0)
    group.broadcast(head.reshape(-1), src=0)
    output, _ = engine.communicate(timeout=60)
    loaded = json.loads(output.splitlines()[-1])  # OpenRLHF prints, too
    assert loaded["layer.weight"] == weight.tolist()
    assert loaded["layer.bias"] == bias.tolist()
    assert loaded["head.weight"] == head.tolist()


def test_a_broadcast_over_gloo_ends_where_the_engine_dies_in_it() -> None:
    port = free_port()
    engine = receiver(port, "dies")
    group = GlooBroadcastGroup("127.0.0.1", port, rank=0, world_size=2)
    group.broadcast(torch.zeros(8), src=0)

    def broadcast_for_ever() -> None:
        while True:  # what the kernel still takes for it, it takes
            group.broadcast(torch.zeros(1 << 20), src=0)

    with pytest.raises(RuntimeError):
        broadcast_for_ever()
    group.destroy()
    assert engine.wait(60) == -9


def test_vllm_keeps_the_weights_that_an_update_needs() -> None:
    cpu.install()
    from vllm.model_executor.layers import utils

    layer = torch.nn.Linear(4, 3)
    utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    assert layer.weight.shape == (3, 4)
    torch.testing.assert_close(
        layer.cpu_linear(torch.ones(1, 4), layer.weight, layer.bias), layer(torch.ones(1, 4))
    )


def test_the_lock_of_a_builder_that_died_is_not_waited_for(tmp_path: Path) -> None:
    """Whenever it died: a look at the start of the run may be too early."""
    folder = tmp_path / "fused_adam"
    folder.mkdir()
    code = """
        import os, sys, time
        from vespo_openrlhf.cpu import patches
        patches._LOOK_SECONDS = 0.1
        patches.register()
        from torch.utils.file_baton import FileBaton
        lock = sys.argv[1]
        dead = FileBaton(lock)
        assert dead.try_acquire()
        then = time.time() - 300
        os.utime(lock, (then, then))
        FileBaton(lock).wait()
        print(os.path.exists(lock))
        """
    assert run_fresh(code, str(folder / "lock")).split() == ["False"]
