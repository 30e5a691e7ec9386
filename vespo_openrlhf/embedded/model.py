"""A tiny Qwen3, dense or with experts, and its warm start on right and wrong procedures, mixed.

A pretrained model has read right and wrong solutions alike, and samples both. Ours is made the
same way: a share of its demonstrations is written by the student who forgets to carry. It
learns to add columns well and which of the two students to follow hardly at all, so both its
sampled and its greedy accuracy are low, and there is a procedure for reinforcement learning to
find rather than only noise for it to quieten.

Shapes: B = sequences, T = tokens of a sequence (prompt and response), padded at the end.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from vespo_openrlhf.embedded.arithmetic import Problem, boxed_answer, worked_solution
from vespo_openrlhf.embedded.calculator import call
from vespo_openrlhf.embedded.options import MAX_LENGTH, MAX_RESPONSE_TOKENS, WarmStart
from vespo_openrlhf.embedded.tokenizer import chat_text

Model: TypeAlias = Qwen3ForCausalLM | Qwen3MoeForCausalLM

# Labels that the loss passes over: the prompt and the padding.
IGNORED = -100

# Fixed rather than taken from the machine: the order of a float32 sum depends on it. One, because
# operators this small gain little from a second thread, and threads that wait for one another
# hundreds of times a step are slowed many times over as soon as another process wants a core.
THREADS = 1


# Of a layer with experts: each has half of the dense one's intermediate size and a token takes two,
# and so as much work. As in Qwen3's own mixtures, the weights of the two add up to one.
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "norm_topk_prob": True,
    # Of the warm start. Without it some experts were given 0.2 to 0.8 % of the choices; with
    # it each is given 11 to 14 %, at a like accuracy, and a step takes no longer.
    "router_aux_loss_coef": 0.01,
}


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Fixed seed, thread count and kernels within; the caller's own state back at the end."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, moe: bool = False, small: bool = False
) -> Model:
    """A Qwen3 of about 0.34 million parameters in float32, with random weights.

    The size of a head is one that vLLM's CPU attention has a kernel for.

    Args:
        tokenizer: its size and special tokens are the model's.
        moe: a mixture instead, of 0.93 million parameters: each layer has 8 experts of half the
            dense one's intermediate size, of which a token takes 2, and so as much work.
        small: half as wide, of 0.09 million parameters.
    """
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": MAX_LENGTH,
        # For dozens of positions and a width of 128. Qwen3's own are for 32,768 and for thousands,
        # and with them the columns take more demonstrations to find.
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "initializer_range": 0.06,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if small:
        shape |= {"hidden_size": 64, "intermediate_size": 128}
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen3MoeConfig(**shape, **EXPERTS) if moe else Qwen3Config(**shape)
    config._attn_implementation = "sdpa"
    model: Model = (Qwen3MoeForCausalLM if moe else Qwen3ForCausalLM)(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def demonstrations(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], forget_share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One demonstration a problem, each by one student or the other.

    Args:
        tokenizer: encodes the chat text and the solution as one text, as a verifier sees them.
        problems: what to demonstrate, N of them.
        forget_share: the chance that the forgetful student writes a demonstration.
        seed: decides who writes which.

    Returns:
        input ids and labels, both (N, T) int64; labels are `IGNORED` on prompt and padding.
    """
    rng = random.Random(f"demonstrations-{seed}")
    solutions = [
        worked_solution(problem, forget_carry=rng.random() < forget_share) for problem in problems
    ]
    return labelled(tokenizer, problems, solutions)


def calls(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], forget_share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `demonstrations`, but that whoever does not forget asks the calculator.

    What the calculator answers is `IGNORED`, as a prompt is.
    """
    rng = random.Random(f"demonstrations-{seed}")
    conversations = []
    for problem in problems:
        said = worked_solution(problem, forget_carry=True)
        parts = [(chat_text(tokenizer, problem.prompt), False)]
        if rng.random() >= forget_share:
            said = f"\\boxed{{{problem.label}}}"
            parts.append((f"{call(problem)}{tokenizer.eos_token}", True))
            parts.append(("\n" + chat_text(tokenizer, problem.label), False))
        conversations.append([*parts, (f"{said}{tokenizer.eos_token}", True)])
    return labelled_parts(tokenizer, conversations)


def labelled(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], solutions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels of N solved problems, as `demonstrations` returns them."""
    return labelled_parts(
        tokenizer,
        [
            [
                (chat_text(tokenizer, problem.prompt), False),
                (f"{solution}{tokenizer.eos_token}", True),
            ]
            for problem, solution in zip(problems, solutions, strict=True)
        ],
    )


def labelled_parts(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[tuple[str, bool]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels of N conversations, as `demonstrations` returns them.

    Args:
        tokenizer: one whose tokens do not reach over the border of two parts.
        conversations: of each the parts of its text in turn, and whether the part is learnt.
    """
    ids, labels = [], []
    for parts in conversations:
        encoded = [(torch.tensor(tokenizer.encode(text)), learnt) for text, learnt in parts]
        ids.append(torch.cat([part for part, _ in encoded]))
        labels.append(
            torch.cat([part if learnt else part * 0 + IGNORED for part, learnt in encoded])
        )
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        pad(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad(labels, batch_first=True, padding_value=IGNORED),
    )


def warm_start(
    model: Model,
    ids_NT: torch.Tensor,
    labels_NT: torch.Tensor,
    options: WarmStart,
    *,
    progress: bool = True,
) -> None:
    """Train `model` in place: one pass, `options.batch_size` rows a step, in the order given.

    The learning rate rises over the first fifth of the steps and then falls to zero, so that the
    last weights are settled and the sampled accuracy differs little from seed to seed.

    Args:
        model: changed in place.
        ids_NT: (N, T) int64, N at least `steps * batch_size`.
        labels_NT: (N, T) int64, `IGNORED` where there is nothing to learn.
        options: steps, batch size and learning rate.
        progress: show a progress bar on standard error.

    Raises:
        ValueError: if there are too few rows.
    """
    needed = options.steps * options.batch_size
    if len(ids_NT) < needed:
        raise ValueError(f"the warm start needs {needed} demonstrations, not {len(ids_NT)}")
    batches = zip(
        ids_NT.split(options.batch_size), labels_NT.split(options.batch_size), strict=True
    )
    teach(model, batches, options.steps, options.peak_lr, rise=0.2, progress=progress)


def teach(
    model: Model,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    peak_lr: float,
    *,
    rise: float,
    weight_decay: float = 0.0,
    progress: bool = True,
) -> None:
    """Supervised steps with AdamW; changes the model. Of a mixture they balance the loads, too.

    Args:
        model: changed in place.
        batches: ids and labels of each step, (B, T) int64 as `labelled` returns them.
        steps: how many.
        peak_lr: the highest learning rate.
        rise: share of the steps in which the learning rate rises; then it falls to zero.
        weight_decay: of AdamW.
        progress: show a progress bar on standard error.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak_lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_lr, total_steps=steps + 1, pct_start=rise, cycle_momentum=False
    )
    model.train()
    mixture = isinstance(model, Qwen3MoeForCausalLM)
    bar = tqdm(
        range(steps),
        desc="warm start",
        unit="step",
        disable=not progress,
        # In a log file every refresh is a line of its own.
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    )
    for step, (ids_BT, labels_BT) in zip(bar, batches, strict=False):
        # The output layer is spared the third of the tokens that is prompt and padding.
        outputs = model.model(ids_BT[:, :-1], **{"output_router_logits": True} if mixture else {})
        hidden_BTD = outputs.last_hidden_state
        targets_BT = labels_BT[:, 1:]
        learnt = targets_BT != IGNORED
        loss = torch.nn.functional.cross_entropy(
            model.lm_head(hidden_BTD[learnt]), targets_BT[learnt]
        )
        if mixture:
            loss = loss + _imbalance(model.config, outputs.router_logits, ids_BT[:, :-1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


def _imbalance(
    config: Qwen3MoeConfig, logits: Iterable[torch.Tensor], ids_BT: torch.Tensor
) -> torch.Tensor:
    """The auxiliary loss of routers, from the logits of each layer, (B * T, experts).

    For each layer: transformers' own sum takes them as one, in which a layer's loads could make up
    for another's.
    """
    taken_BT = ids_BT != config.pad_token_id
    losses = [
        load_balancing_loss_func(
            (layer,), config.num_experts, config.num_experts_per_tok, attention_mask=taken_BT
        )
        for layer in logits
    ]
    return config.router_aux_loss_coef * torch.stack(losses).sum()


@torch.no_grad()
def respond(model: Model, batch: Mapping[str, torch.Tensor], *, greedy: bool) -> torch.Tensor:
    """(B, R) ids of the responses to prompts, at temperature 1 from the whole distribution unless
    `greedy`; what comes after a response's end is padding.

    Args:
        model: generates with its key-value cache.
        batch: `input_ids` and `attention_mask`, (B, T), padded on the left.
        greedy: take the likeliest token instead of sampling.
    """
    # top_k and top_p spelled out: transformers truncates to the 50 likeliest by default.
    how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0}
    ids: torch.Tensor = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=MAX_RESPONSE_TOKENS,
        **how,
    )
    return ids[:, batch["input_ids"].shape[1] :]


@torch.no_grad()
def accuracy(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    *,
    samples: int = 1,
    greedy: bool = False,
) -> float:
    """Share of responses whose boxed answer is the label, of `samples` responses a problem.

    Args:
        model: generates with its key-value cache, all problems in one batch.
        tokenizer: of the model.
        problems: at least one.
        samples: responses a problem, at temperature 1 from the whole distribution; 1 if greedy.
        greedy: take the likeliest token instead of sampling.

    Raises:
        ValueError: if there is no problem or no sample to measure on.
    """
    if not problems or samples < 1:
        raise ValueError("accuracy needs at least one problem and one sample a problem")
    prompts = [chat_text(tokenizer, problem.prompt) for problem in problems]
    batch = tokenizer(
        prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    right = 0
    for _ in range(1 if greedy else samples):
        responses = tokenizer.batch_decode(respond(model, batch, greedy=greedy))
        right += sum(
            boxed_answer(response) == problem.label
            for response, problem in zip(responses, problems, strict=True)
        )
    return right / (len(problems) * (1 if greedy else samples))
