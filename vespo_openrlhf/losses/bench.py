"""Time and peak memory of the losses, forward and backward, on this machine.

    python -m vespo_openrlhf.losses.bench [--json] [--losses vespo,ppo] [--device cuda]

Beside them, in the same run, OpenRLHF's own PolicyLoss with its token-level correction, where
OpenRLHF is installed; its files alone are enough (`pip install --no-deps openrlhf`), so a GPU
machine needs nothing else but torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .inputs import LossInputs
from .registry import POLICY_LOSS_NAMES, PolicyLoss, get_policy_loss

SIZES = ((64, 4096), (8, 65536))  # sequences x action tokens
REFERENCE = "openrlhf_ppo_token_correction"

Step = Callable[[], None]


def load_openrlhf_loss() -> ModuleType | None:
    """The installed openrlhf/models/loss.py as a module, or None where there is no OpenRLHF.

    Loaded from its file: importing openrlhf.models would need flash-attn, deepspeed and
    transformers, and the loss uses none of them (its utils.py imports deepspeed for a function
    that is not called here, so an empty module stands in for it while it loads).
    """
    package = importlib.util.find_spec("openrlhf")
    if package is None or not package.submodule_search_locations:
        return None
    folder = Path(package.submodule_search_locations[0]) / "models"
    parent = ModuleType("openrlhf_models_files")
    parent.__path__ = [str(folder)]
    sys.modules[parent.__name__] = parent
    had_deepspeed = "deepspeed" in sys.modules
    sys.modules.setdefault("deepspeed", ModuleType("deepspeed"))
    try:
        for name in ("utils", "loss"):
            full_name = f"{parent.__name__}.{name}"
            spec = importlib.util.spec_from_file_location(full_name, folder / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[full_name] = module
            spec.loader.exec_module(module)
    finally:
        if not had_deepspeed:
            del sys.modules["deepspeed"]
    return module


def make_inputs(
    batch: int, tokens: int, device: str, dtype: torch.dtype = torch.float32
) -> LossInputs:
    """A made-up micro-batch: right-padded responses of half the tokens to all of them.

    The same numbers for every device and dtype, rounded to `dtype`.
    """
    generator = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(batch, tokens, generator=generator)
    drift = 0.02 * torch.randn(2, batch, tokens, generator=generator)
    lengths = torch.randint(tokens // 2, tokens + 1, (batch, 1), generator=generator)
    mask = torch.arange(tokens) < lengths
    advantages = torch.randn(batch, 1, generator=generator).expand(batch, tokens)
    return LossInputs(
        log_probs=(old + drift[0]).to(device, dtype).requires_grad_(),
        old_log_probs=old.to(device, dtype),
        advantages=advantages.contiguous().to(device, dtype),
        action_mask=mask.to(device),
        rollout_log_probs=(old + drift[1]).to(device, dtype),
        dp_size=1,
        batch_num_tokens=mask.sum().float().to(device),
        global_batch_size=torch.full((), float(batch), device=device),
    )


def make_steps(names: Sequence[str], inputs: LossInputs) -> dict[str, Step]:
    """One forward and backward per loss, the reference first where there is one."""
    steps: dict[str, Step] = {}
    openrlhf_loss = load_openrlhf_loss()
    if openrlhf_loss is not None:
        reference = openrlhf_loss.PolicyLoss(0.2, 0.28, is_correction_level="token")

        def reference_step() -> None:
            inputs.log_probs.grad = None
            loss = reference(
                inputs.log_probs,
                inputs.old_log_probs,
                inputs.advantages,
                action_mask=inputs.action_mask,
                rollout_log_probs=inputs.rollout_log_probs,
                dp_size=inputs.dp_size,
                batch_num_tokens=inputs.batch_num_tokens,
                global_batch_size=inputs.global_batch_size,
            )[0]
            loss.backward()

        steps[REFERENCE] = reference_step
    for name in names:
        policy_loss = get_policy_loss(name)

        def step(policy_loss: PolicyLoss = policy_loss) -> None:
            inputs.log_probs.grad = None
            policy_loss(policy_loss.with_own_statistics(inputs))[0].backward()

        steps[name] = step
    return steps


def seconds(step: Step, device: str) -> float:
    """Wall-clock seconds of one step, the device waited for on both sides."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(step: Step, inputs: LossInputs, device: str) -> int:
    """Most bytes that were allocated at once during one step, on top of its inputs."""
    step()
    inputs.log_probs.grad = None
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # The CPU allocator has no peak counter; the profiler records every allocation and release.
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    results = profile.profiler.kineto_results
    assert results is not None
    events = [e for e in results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measure(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    device: str,
    repeats: int,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """One row per size and loss: median milliseconds, peak MiB, and both over the reference's.

    The losses take turns within a round, so that whatever else the machine does meets them all;
    time_ratio is the median over rounds of the ratio within a round.
    """
    rows: list[dict[str, Any]] = []
    for batch, tokens in sizes:
        inputs = make_inputs(batch, tokens, device, dtype)
        steps = make_steps(names, inputs)
        for step in steps.values():  # warm-up
            step()
            step()
        rounds = [
            {name: seconds(step, device) for name, step in steps.items()} for _ in range(repeats)
        ]
        peaks = {name: peak_bytes(step, inputs, device) for name, step in steps.items()}
        for name in steps:
            row: dict[str, Any] = {"loss": name, "batch": batch, "tokens": tokens}
            row["time_ms"] = round(1e3 * statistics.median(r[name] for r in rounds), 4)
            row["peak_mib"] = round(peaks[name] / 2**20, 3)
            if REFERENCE in steps:
                ratio = statistics.median(r[name] / r[REFERENCE] for r in rounds)
                row["time_ratio"] = round(ratio, 3)
                row["peak_ratio"] = round(peaks[name] / peaks[REFERENCE], 3)
            rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Time and peak memory of the policy losses.")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--losses", default=",".join(POLICY_LOSS_NAMES), help="comma-separated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=30, help="rounds, each of every loss once")
    args = parser.parse_args(argv)
    rows = measure(args.losses.split(","), SIZES, args.device, args.repeats)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    if args.json:
        threads = torch.get_num_threads()
        header = {"device": name, "threads": threads, "torch": torch.__version__}
        print(json.dumps(header | {"repeats": args.repeats, "rows": rows}, indent=1))
        return
    print(f"{name}, torch {torch.__version__}, {args.repeats} rounds")
    for row in rows:
        size = f"{row['batch']} x {row['tokens']}"
        line = f"{size:>10}  {row['loss']:<30} {row['time_ms']:9.3f} ms {row['peak_mib']:9.2f} MiB"
        if "time_ratio" in row:
            line += f"   {row['time_ratio']:.2f}x time {row['peak_ratio']:.2f}x peak"
        print(line)


if __name__ == "__main__":
    main()
