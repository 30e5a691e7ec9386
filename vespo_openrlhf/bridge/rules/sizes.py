"""Batches, lengths and ranks: numbers that must be there, and divide."""

from __future__ import annotations

from collections.abc import Iterator

from vespo_openrlhf.bridge.roles import Flags, copies, gpus, ranks, roles

#: Estimators of OpenRLHF that compare a response with the others to its prompt.
GROUP_ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")


_SIZES = (
    *("rollout.batch_size", "rollout.n_samples_per_prompt", "rollout.micro_batch_size"),
    *("train.batch_size", "train.micro_batch_size", "train.num_episodes"),
    *("data.max_len", "data.max_samples", "vllm.tensor_parallel_size"),
    *("ds.ring_attn_size", "ds.tensor_parallel_size"),
)


def check_sizes(flags: Flags) -> None:
    """Numbers that everything else divides by; the first rule, for that reason."""
    names = [f"{role}.{of}" for role in roles(flags) for of in ("num_nodes", "num_gpus_per_node")]
    for name in (*_SIZES, *names):
        if flags[name] < 1:
            raise ValueError(f"--{name} is {flags[name]}: set it to at least 1")
    for name in ("ckpt.save_steps", "eval.steps"):
        if flags[name] < 1 and flags[name] != -1:
            raise ValueError(
                f"--{name} is {flags[name]}: set it to at least 1, in rollout batches, or to -1 "
                "for never"
            )


def check_groups(flags: Flags) -> None:
    """An advantage within the group needs another response to compare with."""
    estimator = flags["algo.advantage.estimator"]
    if estimator in GROUP_ESTIMATORS and flags["rollout.n_samples_per_prompt"] < 2:
        raise ValueError(
            f"--algo.advantage.estimator {estimator} compares the responses to a prompt with one "
            "another, and with --rollout.n_samples_per_prompt 1 there is one: set it to 2 or more, "
            "or take --algo.advantage.estimator flash_reinforce"
        )


def check_ranks(flags: Flags) -> None:
    """The GPUs of a model split into groups that share a sequence."""
    shared = copies(flags)
    for role in roles(flags):
        if gpus(flags, role) % shared:
            raise ValueError(
                f"{gpus(flags, role)} GPUs of --{role}.num_gpus_per_node do not split into groups "
                f"of {shared} (--ds.ring_attn_size x --ds.tensor_parallel_size): set "
                f"--{role}.num_gpus_per_node to a multiple of {shared}"
            )


def _ranks(flags: Flags) -> Iterator[tuple[str, int]]:
    """Every model with its ranks, but for those that `check_ranks` refuses."""
    for role in roles(flags):
        if gpus(flags, role) % copies(flags) == 0:
            yield role, ranks(flags, role)


def check_update(flags: Flags) -> None:
    """An update gives each rank as many whole micro-batches as every other: DeepSpeed asserts it,
    for models that are only read, too."""
    update, micro = flags["train.batch_size"], flags["train.micro_batch_size"]
    for role, number in _ranks(flags):
        dynamic = flags["train.dynamic_batch_enable"] and role in ("actor", "critic")
        each = 1 if dynamic else micro
        if update % (number * each):
            raise ValueError(
                f"--train.batch_size {update} does not split evenly over {number} data-parallel "
                f"ranks of the {role}{f' x {each} per micro-batch' if each > 1 else ''}: set "
                f"--train.batch_size to a multiple of {number * each}"
                + (", or a smaller --train.micro_batch_size" if each > 1 else "")
            )


def check_forward(flags: Flags) -> None:
    """A forward pass over a rollout batch gives each rank as many micro-batches as every other."""
    micro = flags["rollout.micro_batch_size"]
    responses = flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    for role, number in _ranks(flags):
        if responses // micro < number:
            raise ValueError(
                f"a rollout batch of {responses} responses is fewer than {number} data-parallel "
                f"ranks of the {role} x {micro} (--rollout.micro_batch_size): set "
                f"--rollout.micro_batch_size to at most {max(responses // number, 1)}, or make "
                "--rollout.batch_size larger"
            )
        each = 1 if flags["train.dynamic_batch_enable"] else micro
        if number > 1 and responses % (number * each):
            raise ValueError(
                f"a rollout batch of {responses} responses does not split evenly over {number} "
                f"data-parallel ranks of the {role} x {each} (--rollout.micro_batch_size): ranks "
                "would wait for one another for ever; make --rollout.batch_size x "
                f"--rollout.n_samples_per_prompt a multiple of {number * each}"
            )


def check_lengths(flags: Flags) -> None:
    """A prompt and a response fit together into what is read."""
    longest, response = flags["data.max_len"], flags["rollout.max_new_tokens"]
    if response is None:
        return
    if response < 1:
        raise ValueError(f"--rollout.max_new_tokens is {response}: set it to at least 1")
    if response >= longest:
        raise ValueError(
            f"--rollout.max_new_tokens {response} leaves no room for a prompt in --data.max_len "
            f"{longest}, which counts both: set --data.max_len {response + 1024} for prompts of "
            "up to 1,024 tokens"
        )
