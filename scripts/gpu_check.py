"""What this project's numeric parts do on a GPU: right, how fast, in how much memory.

    python scripts/gpu_check.py [--out gpu_check.json]

For whoever has one GPU and nothing but torch and triton: no OpenRLHF, Ray, vLLM or DeepSpeed is
imported. Takes at most 8 minutes, prints a line as each part begins and one table in the end, and
writes all of it as JSON. A part that runs out of memory, or fails, is reported and the others go
on. Exits with 1 where a result is wrong or a part failed. `--quick` does the same at small sizes,
also on a CPU, where its times say nothing.

Parts: the limits of the machine (bandwidth, matrix products); the losses against float64 and their
bench, in float32 and bfloat16; log-probs with `vespo_openrlhf.log_prob_head` against full logits;
and the light trainer of `vespo_openrlhf.study`.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from vespo_openrlhf.log_prob_head import token_log_probs
from vespo_openrlhf.losses import POLICY_LOSS_NAMES, bench, get_policy_loss
from vespo_openrlhf.study.cells import Cell, LossSetting, Recipe
from vespo_openrlhf.study.trainer import Run
from vespo_openrlhf.study.warm_start import warm_start

TIME_LIMIT_S = 8 * 60
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Of the gradient's largest element, and of the loss: rounding of the results in their dtype.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        copy: bytes copied to measure the bandwidth.
        matrix: side of the square matrices of the products.
        parity: sequences and tokens of the losses' comparison.
        losses: the same of their bench.
        rounds: of the bench.
        head: tokens, vocabulary and hidden width of the log-probs.
        head_parity: the same of their comparison.
        trainer: width, layers, heads and updates of the light trainer.
    """

    copy: int
    matrix: int
    parity: tuple[int, int]
    losses: tuple[tuple[int, int], ...]
    rounds: int
    head: tuple[int, int, int]
    head_parity: tuple[int, int, int]
    trainer: tuple[int, int, int, int]


FULL = Sizes(
    copy=2**30,
    matrix=8192,
    parity=(16, 1024),
    losses=bench.SIZES,
    rounds=10,
    head=(16_384, 151_936, 2048),
    head_parity=(1024, 151_936, 2048),
    trainer=(512, 10, 8, 16),
)
QUICK = Sizes(
    copy=2**22,
    matrix=256,
    parity=(4, 64),
    losses=((4, 128),),
    rounds=2,
    head=(256, 2048, 64),
    head_parity=(64, 512, 32),
    trainer=(32, 1, 2, 2),
)


@dataclass
class Check:
    """The run so far.

    Attributes:
        limits: "bandwidth" in bytes/s, and matrix products of each dtype in operations/s.
        rows: of the table: part, what, and its figures by name.
        problems: what is wrong or has failed, a line each.
    """

    device: str
    sizes: Sizes
    deadline: float
    limits: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def row(self, part: str, what: str, **figures: Any) -> None:
        self.rows.append({"part": part, "what": what, **figures})

    def holds(self, condition: bool, problem: str) -> str:
        """ "ok" or "WRONG", and the problem noted."""
        if not condition:
            self.problems.append(problem)
        return "ok" if condition else "WRONG"

    def guarded(self, part: str, what: str, do: Callable[[], None]) -> None:
        """Do it, unless the time is up; running out of memory or failing is a row of its own."""
        if time.monotonic() > self.deadline:
            self.row(part, what, status="left out: the time is up")
            return
        try:
            do()
        except torch.OutOfMemoryError:
            self.row(part, what, status="out of memory")
        except Exception as error:
            traceback.print_exc()
            self.row(part, what, status=f"failed: {error}"[:200])
            self.problems.append(f"{part}, {what}: failed, {type(error).__name__}")
        self.clean()

    def clean(self) -> None:
        """No part pays for the memory of the one before it."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def seconds(self, step: Callable[[], object], repeats: int = 3) -> float:
        """The fastest of some, after one to warm up."""
        step()
        return min(bench.seconds(step, self.device) for _ in range(repeats))

    def peak(self, step: Callable[[], object]) -> int | None:
        """Most bytes allocated at once on top of what is there; None on a CPU."""
        if self.device != "cuda":
            return None
        self.clean()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def measure_limits(check: Check) -> None:
    """What the ratios of the other parts are to."""

    def bandwidth() -> None:
        source = torch.empty(check.sizes.copy, dtype=torch.uint8, device=check.device)
        target = torch.empty_like(source)
        seconds = check.seconds(lambda: target.copy_(source), 10)
        check.limits["bandwidth"] = 2 * len(source) / seconds
        check.row("limits", "bandwidth (copy)", gb_per_s=check.limits["bandwidth"] / 1e9)

    check.guarded("limits", "bandwidth (copy)", bandwidth)
    for name, dtype in DTYPES.items():

        def products(name: str = name, dtype: torch.dtype = dtype) -> None:
            side = check.sizes.matrix
            a, b = (torch.randn(side, side, device=check.device, dtype=dtype) for _ in range(2))
            check.limits[name] = 2 * side**3 / check.seconds(lambda: a @ b, 5)
            check.row("limits", f"matrix product, {name}", tflop_per_s=check.limits[name] / 1e12)

        check.guarded("limits", f"matrix product, {name}", products)


def check_losses(check: Check) -> None:
    """Loss and gradient of each, from rounded inputs, against float64 of the same inputs."""
    for dtype_name, dtype in DTYPES.items():
        for name in POLICY_LOSS_NAMES:

            def compare(name: str = name, dtype_name: str = dtype_name, dtype: Any = dtype) -> None:
                loss = get_policy_loss(name)
                results = []
                inputs = bench.make_inputs(*check.sizes.parity, check.device, dtype)
                exact = bench.make_inputs(*check.sizes.parity, "cpu", dtype)
                wider = {
                    key: value.detach().double()
                    for key, value in vars(exact).items()
                    if isinstance(value, Tensor) and value.is_floating_point()
                }
                exact = dataclasses.replace(exact, **wider)
                exact.log_probs.requires_grad_()
                for one in (inputs, exact):
                    value = loss(loss.with_own_statistics(one))[0]
                    value.backward()
                    results.append((value.detach().double().cpu(), one.log_probs.grad))
                (value, gradient), (true, true_gradient) = results
                assert gradient is not None
                assert true_gradient is not None
                away = (gradient.double().cpu() - true_gradient).abs().max()
                error = float(away / true_gradient.abs().max().clamp(min=1e-30))
                of_loss = float((value - true).abs() / max(1e-3, float(true.abs())))
                fits = max(error, of_loss) <= TOLERANCES[dtype_name]
                what = f"{name}, {dtype_name}"
                status = check.holds(fits, f"loss parity, {what}: {max(error, of_loss):.2g} away")
                check.row(
                    "loss parity", what, loss_error=of_loss, gradient_error=error, status=status
                )

            check.guarded("loss parity", f"{name}, {dtype_name}", compare)


def bench_losses(check: Check) -> None:
    """Time and memory of each, beside the time its inputs take to be read once."""
    for dtype_name, dtype in DTYPES.items():
        for size in check.sizes.losses:
            what = f"{size[0]} x {size[1]}, {dtype_name}"

            def measure(size: Any = size, dtype_name: str = dtype_name, dtype: Any = dtype) -> None:
                rows = bench.measure(
                    POLICY_LOSS_NAMES, [size], check.device, check.sizes.rounds, dtype
                )
                for row in rows:
                    # Four tensors and the mask read, the gradient written.
                    read = size[0] * size[1] * (5 * dtype.itemsize + 1)
                    figures = {"ms": row["time_ms"], "peak_mib": row["peak_mib"]}
                    if "bandwidth" in check.limits:
                        least = 1e3 * read / check.limits["bandwidth"]
                        figures["over_bandwidth"] = row["time_ms"] / least
                    name = f"{row['loss']}, {row['batch']} x {row['tokens']}, {dtype_name}"
                    check.row("loss bench", name, **figures)

            check.guarded("loss bench", what, measure)


def _sliced_logits(hidden: Tensor, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs as OpenRLHF 0.11.2 takes them where flash-attn is missing, and their logits: all of
    them in float32, the sums over slices of 1,024 tokens."""
    logits = (hidden @ weight.t()).float()
    sums = torch.cat([part.logsumexp(-1) for part in _slices(logits)])
    return logits.gather(1, tokens[:, None])[:, 0] - sums, logits


def _slices(logits: Tensor) -> list[Tensor]:
    # Not torch.split, whose backward pass is one; OpenRLHF indexes.
    return [logits[start : start + 1024] for start in range(0, len(logits), 1024)]


def _whole_logits(hidden: Tensor, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The leanest way by whole logits: torch's fused cross entropy of them in float32."""
    logits = (hidden @ weight.t()).float()
    return -torch.nn.functional.cross_entropy(logits, tokens, reduction="none"), logits


def _flash_logits(hidden: Tensor, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """As OpenRLHF takes them where flash-attn is installed."""
    from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

    logits = (hidden @ weight.t()).float()
    return -cross_entropy_loss(logits, tokens)[0], logits


def _entropy(logits: Tensor) -> Tensor:
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)


def _by_head(
    hidden: Tensor, weight: Tensor, tokens: Tensor, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    return token_log_probs(hidden, weight, tokens, entropy=entropy)


def _by_logits(way: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def compute(hidden: Tensor, weight: Tensor, tokens: Tensor, entropy: bool) -> Any:
        log_probs, logits = way(hidden, weight, tokens)
        return log_probs, _entropy(logits) if entropy else None

    return compute


WAYS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "head": _by_head,
    "openrlhf's slices": _by_logits(_sliced_logits),
    "cross entropy": _by_logits(_whole_logits),
}
if torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None:
    WAYS["openrlhf's flash-attn"] = _by_logits(_flash_logits)


def _head_inputs(check: Check, size: tuple[int, int, int], dtype: torch.dtype) -> Sequence[Tensor]:
    tokens, vocabulary, width = size
    generator = torch.Generator(check.device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        tensor = torch.randn(*shape, generator=generator, device=check.device)
        return (tensor * (2 / width**0.5 if shape[0] == vocabulary else 1)).to(dtype)

    return (
        normal(tokens, width).requires_grad_(),
        normal(vocabulary, width).requires_grad_(),
        torch.randint(vocabulary, (tokens,), generator=generator, device=check.device),
    )


def _loss(results: tuple[Tensor, Tensor | None]) -> Tensor:
    """Something that weighs each token differently, as a policy loss does."""
    log_probs, entropies = results
    loss = (log_probs * torch.linspace(-1, 1, len(log_probs), device=log_probs.device)).sum()
    return loss if entropies is None else loss + 0.1 * entropies.sum()


def check_head(check: Check) -> None:
    """The head's values and gradients against those of whole logits in float32 of the same."""
    for dtype_name, dtype in DTYPES.items():

        def compare(dtype_name: str = dtype_name, dtype: torch.dtype = dtype) -> None:
            inputs = _head_inputs(check, check.sizes.head_parity, dtype)
            hidden, weight, tokens = inputs
            exact = [*(t.detach().float().requires_grad_() for t in (hidden, weight)), tokens]
            gradients, values = {}, {}
            for name, way, given in (
                ("head", _by_head, inputs),
                ("full", WAYS["cross entropy"], inputs),
                ("exact", WAYS["cross entropy"], exact),
            ):
                results = way(*given, True)
                values[name] = torch.stack([r.detach() for r in results if r is not None])
                gradients[name] = torch.autograd.grad(_loss(results), given[:2])
            value_error = float((values["head"] - values["full"]).abs().mean())
            errors = {
                name: max(
                    float((a.float() - b).norm() / b.norm())
                    for a, b in zip(gradients[name], gradients["exact"], strict=True)
                )
                for name in ("head", "full")
            }
            # As near to float32 as whole logits are; the values from logits of one dtype.
            fits = errors["head"] <= 1.2 * errors["full"] + 1e-4
            fits &= value_error <= (1e-4 if dtype_name == "float32" else 1e-2)
            problem = (
                f"log-prob head, {dtype_name}: {value_error:.2g} nats away, gradients {errors}"
            )
            check.row(
                "head parity",
                f"log-probs, entropies, gradients, {dtype_name}",
                nats=value_error,
                gradient_error=errors["head"],
                gradient_error_full=errors["full"],
                status=check.holds(fits, problem),
            )

        check.guarded("head parity", dtype_name, compare)


def bench_head(check: Check) -> None:
    """Time and memory of a forward and backward pass, and of a forward pass alone."""
    tokens, vocabulary, width = size = check.sizes.head
    taken: dict[tuple[str, str], dict[str, float]] = {}
    for mode in ("train", "train, entropy", "forward alone"):
        for name, way in WAYS.items():
            what = f"{tokens} x {vocabulary} x {width}, bfloat16, {mode}: {name}"

            def measure(mode: str = mode, name: str = name, way: Any = way, w: str = what) -> None:
                inputs = _head_inputs(check, size, torch.bfloat16)
                products = 1 if mode == "forward alone" else 4 if name == "head" else 3

                def step() -> None:
                    if products == 1:
                        with torch.no_grad():
                            way(*inputs, False)
                        return
                    _loss(way(*inputs, mode.endswith("entropy"))).backward()
                    for tensor in inputs[:2]:
                        tensor.grad = None

                figures: dict[str, float] = {"ms": 1e3 * check.seconds(step)}
                peak = check.peak(step)
                if peak is not None:
                    figures["peak_mib"] = peak / 2**20
                if "bfloat16" in check.limits:
                    least = products * 2 * tokens * vocabulary * width / check.limits["bfloat16"]
                    figures["over_products"] = figures["ms"] / (1e3 * least)
                taken[mode, name] = figures
                check.row("head bench", w, **figures)

            check.guarded("head bench", what, measure)
        head = taken.get((mode, "head"))
        for name in list(WAYS)[1:]:
            other = taken.get((mode, name))
            if head is not None and other is not None:
                ratios = {"time_ratio": head["ms"] / other["ms"]}
                if "peak_mib" in head:
                    ratios["peak_ratio"] = head["peak_mib"] / other["peak_mib"]
                check.row("head bench", f"{mode}: head over {name}", **ratios)


def run_trainer(check: Check) -> None:
    """Warm start, sampling and VESPO updates of the light trainer, all on the device."""
    width, layers, heads, updates = check.sizes.trainer

    def train() -> None:
        recipe = Recipe(
            updates=updates,
            evaluate_every=updates,
            last_evaluations=1,
            evaluation_problems=64,
            width=width,
            layers=layers,
            heads=heads,
            warm_steps=25 * updates,
            warm_lr=5e-4,
        )
        cell = Cell(LossSetting("VESPO", "vespo"), updates_per_batch=2, seed=0)
        previous = torch.get_default_device()
        torch.set_default_device(check.device)
        try:
            with tempfile.TemporaryDirectory() as folder:
                start = warm_start(0, recipe, Path(folder))
            run = Run(cell, recipe, start)
            parameters = sum(p.numel() for p in run.model.parameters())
            result = run.run()
        finally:
            torch.set_default_device(previous)
        weights = [p for p in run.model.parameters() if not bool(torch.isfinite(p).all())]
        fits = result["skipped"] == 0 and not weights
        check.row(
            "trainer",
            f"{parameters / 1e6:.1f} M parameters, VESPO, {updates} updates of 64 samples",
            seconds=result["seconds"],
            samples_per_s=64 * updates / max(result["seconds"], 1e-9),
            accuracy_before=result["evaluations"][0][1],
            accuracy_after=result["evaluations"][-1][1],
            status=check.holds(fits, "light trainer: a gradient or weight is not finite"),
        )

    check.guarded("trainer", "light trainer", train)


PARTS: dict[str, Callable[[Check], None]] = {
    "limits of the machine": measure_limits,
    "losses against float64": check_losses,
    "log-prob head against full logits": check_head,
    "log-prob head, time and memory": bench_head,
    "light trainer": run_trainer,
    "losses, time and memory": bench_losses,
}


def print_table(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["what"]) for row in rows)
    for row in rows:
        figures = []
        for name, value in row.items():
            if name not in ("part", "what"):
                shown = f"{value:.4g}" if isinstance(value, float) else str(value)
                figures.append(shown if name == "status" else f"{name} {shown}")
        print(f"{row['part']:<12} {row['what']:<{width}}  {'  '.join(figures)}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="small sizes, also without a GPU")
    args = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    if not cuda and not args.quick:
        parser.error("torch sees no GPU here; --quick runs small sizes on the CPU")
    device = "cuda" if cuda else "cpu"
    start = time.monotonic()
    # A part may take a minute beyond: it is begun before the deadline and not cut short.
    check = Check(device, QUICK if args.quick else FULL, start + TIME_LIMIT_S - 60)
    machine = torch.cuda.get_device_name() if cuda else "cpu"
    print(f"{machine}, torch {torch.__version__}", flush=True)
    for number, (name, part) in enumerate(PARTS.items(), 1):
        elapsed = time.monotonic() - start
        print(f"[{number}/{len(PARTS)}] {name} ({elapsed:.0f} s so far)", flush=True)
        part(check)
    print_table(check.rows)
    report = {
        "device": machine,
        "torch": torch.__version__,
        "quick": args.quick,
        "seconds": round(time.monotonic() - start, 1),
        "limits": check.limits,
        "rows": check.rows,
        "problems": check.problems,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['seconds']:.0f} s; written to {args.out}")
    for problem in check.problems:
        print(f"WRONG: {problem}")
    return 1 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main())
