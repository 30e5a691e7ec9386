"""Models that share GPUs."""

from __future__ import annotations

from vespo_openrlhf.bridge.roles import Flags, gpus, roles


def check_places(flags: Flags) -> None:
    """Models that share GPUs are as many as these."""
    everything = flags["train.colocate_all"]
    if everything and not flags["train.async_enable"] and flags["vllm.num_engines"]:
        trainer = gpus(flags)
        parallel, engines = flags["vllm.tensor_parallel_size"], flags["vllm.num_engines"]
        if engines * parallel != trainer:
            raise ValueError(
                f"--train.colocate_all puts trainer and engines on the same GPUs, but the trainer "
                f"has {trainer} and {engines} engines x {parallel} have {engines * parallel}: set "
                f"--vllm.num_engines {max(trainer // parallel, 1)}"
            )
    pairs = (
        ("actor", "ref", everything or flags["train.colocate_actor_ref"], "ref" in roles(flags)),
        ("critic", "reward", flags["train.colocate_critic_reward"], "critic" in roles(flags)),
    )
    for one, other, shared, there in pairs:
        for of in ("num_nodes", "num_gpus_per_node"):
            if shared and there and flags[f"{one}.{of}"] != flags[f"{other}.{of}"]:
                raise ValueError(
                    f"--{one}.{of} {flags[f'{one}.{of}']} and --{other}.{of} "
                    f"{flags[f'{other}.{of}']} differ, and the two models share their GPUs: set "
                    f"--{other}.{of} {flags[f'{one}.{of}']}"
                )
