"""vLLM's way in: its engine core is a process of its own, which Ray's set-up hook never sees."""

from vespo_openrlhf import cpu


def register() -> None:
    """Entry point `vllm.general_plugins`; vLLM calls it once in each of its processes."""
    cpu.install()
