"""The whole stack without a GPU. Inert where CUDA is available.

OpenRLHF takes a CUDA device for granted in a few dozen places. This package answers in their
stead with the CPU, in float32 on both sides, so that the same OpenRLHF, Ray, vLLM and DeepSpeed
run on a laptop. `install()` registers one patch per upstream module; each is applied right after
that module is imported, in every process of ours: the driver, Ray's workers (through the worker
set-up hook) and vLLM's engine processes (through the plugin entry point).
"""

import functools
import os

#: Set to 1 to run on the CPU although a GPU is there (`quickstart.sh --cpu` does).
FORCE_VARIABLE = "VESPO_CPU"

#: CUDA_VISIBLE_DEVICES of every process of the CPU stack. CUDA shows none of these devices, and
#: Ray, which counts the list and hands its entries out, still has its logical GPUs. Of an empty
#: list it has none to give, and its node does not start.
NO_DEVICES = ",".join(["-1"] * 64)


@functools.cache
def is_active() -> bool:
    """Whether this process runs on the CPU stack: no CUDA device, or `VESPO_CPU=1`.

    Where it does, this process and those it starts see no CUDA device from here on.
    """
    if os.environ.get(FORCE_VARIABLE) != "1":
        import torch

        if torch.cuda.is_available():
            return False
    os.environ["CUDA_VISIBLE_DEVICES"] = NO_DEVICES
    return True


def environment() -> dict[str, str]:
    """Variables for every Ray worker of a CPU run; a value the user has set stays."""
    defaults = {
        FORCE_VARIABLE: "1",
        "CUDA_VISIBLE_DEVICES": NO_DEVICES,
        "DS_ACCELERATOR": "cpu",
        # One thread a process: engines and trainer share few cores, and more threads than cores
        # make both slower.
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        # By default vLLM pins each engine to cores of its own choice, where the trainer may run.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # An engine's one worker in its core's process, and a `vllm.LLM`'s core in the caller's.
        # In processes of their own, vLLM's default on a CPU, each costs ten CPU seconds of imports
        # at every start, and they spin while they wait for one another.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def install() -> None:
    """Put the CPU patches in place; nothing at all where CUDA is available. Idempotent."""
    if is_active():
        from vespo_openrlhf.cpu import patches

        patches.register()
