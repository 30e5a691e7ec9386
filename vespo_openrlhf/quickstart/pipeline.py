"""The quickstart's steps: build, train, report, with evaluations beside. Done ones are skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf import cpu
from vespo_openrlhf.embedded import calculator
from vespo_openrlhf.embedded.build import read_finished
from vespo_openrlhf.embedded.options import BuildOptions, WarmStart
from vespo_openrlhf.quickstart.evaluator import Evaluator
from vespo_openrlhf.quickstart.job import run_job, to_arguments
from vespo_openrlhf.quickstart.local_ray import LocalCluster
from vespo_openrlhf.quickstart.plot import plot_run
from vespo_openrlhf.report import write_report
from vespo_openrlhf.report.runs import read_run

PROMPTS_PER_BATCH = 64
SAMPLES_PER_PROMPT = 8
UPDATES_PER_BATCH = 8
MAX_PROMPT_TOKENS = 24
MAX_RESPONSE_TOKENS = 40
EVAL_REPEATS = 4

_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """What to run and where. Every step writes below `out` and is skipped where it has finished.

    Raises:
        ValueError: there is nothing to train for.
    """

    out: Path
    seed: int = 0
    batches: int = 16
    moe: bool = False
    agent: bool = False
    distill: bool = False

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ValueError(f"--batches must be at least 1, got {self.batches}")
        if self.distill and (self.moe or self.agent):
            raise ValueError("--distill is for the dense model: leave --moe and --agent out")

    @property
    def model(self) -> BuildOptions:
        return BuildOptions(seed=self.seed, moe=self.moe, agent=self.agent, small=self.distill)

    @property
    def teacher_model(self) -> BuildOptions:
        """Who never forgets the carry."""
        return BuildOptions(seed=self.seed, warm_start=WarmStart(forget_share=0.0))

    @property
    def built(self) -> Path:
        return self.out / "embedded"

    @property
    def teacher(self) -> Path:
        return self.out / "teacher"

    @property
    def run_dir(self) -> Path:
        return self.out / "run"

    @property
    def picture(self) -> Path:
        return self.out / "training.png"

    @property
    def report(self) -> Path:
        return self.out / "report.html"


def execute(plan: Plan) -> int:
    """Every step, then the table.

    Returns:
        The exit status: 0, or 1 if training did not raise the held-out accuracy.

    Raises:
        RuntimeError: a step failed; the message holds the end of its log.
        ValueError: there is a GPU, but not the two that asynchronous training takes.
    """
    _check_gpus()
    started = time.monotonic()
    plan.out.mkdir(parents=True, exist_ok=True)
    with Evaluator(plan.out / "evaluator.log") as evaluator:
        before = _Evaluation(evaluator, plan, "before", plan.built / "model")
        after = _Evaluation(evaluator, plan, "after", plan.run_dir / "model")
        if not (before.done and after.done):
            evaluator.prepare()
        # While Ray starts and stops, a core is free for it; of a GPU no memory is.
        beside = cpu.is_active()

        def trained() -> None:
            if beside:
                after.start()
            plot_run(read_run(plan.run_dir, "run").train, plan.picture)
            write_report([plan.run_dir], plan.report)

        with _step("1/3 build the tiny model and its data"):
            _build(plan)
        with _step("2/3 train with VESPO: asynchronous, partial rollout, through ray job submit"):
            before.start()
            if not beside:
                before.show()
            _train(plan, submitted=before.show if beside else lambda: None, trained=trained)
        with _step("3/3 evaluate the trained model"):
            after.show()
    result = before.result(), after.result()
    _print_table(plan, *result, time.monotonic() - started)
    return _verdict(*result)


def _check_gpus() -> None:
    if cpu.is_active():
        return
    import torch

    if torch.cuda.device_count() < 2:
        raise ValueError(
            "asynchronous training takes two GPUs, one for the trainer and one for the engine, and "
            "there is one: run scripts/quickstart.sh --cpu, or see the README for your own model"
        )


@contextmanager
def _step(title: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"\n== {title}", flush=True)
    yield
    print(f"   {time.monotonic() - started:.0f} s", flush=True)


def _build(plan: Plan) -> None:
    begun = [name for name in ("before", "run") if (plan.out / name).exists()]
    built = read_finished(plan.built, plan.model)
    if begun and built is None:
        raise ValueError(
            f"{plan.out} holds a run of another model than these options build, of another seed, "
            "with or without --moe, --agent or --distill, or of another version: name another "
            "folder with --out, or remove this one"
        )
    if plan.distill:
        _build_model(plan, plan.teacher, "--forget-share", "0")
    kind = ["--moe"] * plan.moe + ["--agent"] * plan.agent + ["--small"] * plan.distill
    _build_model(plan, plan.built, *kind)


def _build_model(plan: Plan, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "vespo_openrlhf.embedded", "--out", str(out)]
    if subprocess.run([*command, "--seed", str(plan.seed), *options]).returncode:
        raise RuntimeError("the model could not be built; the reason stands above")


class _Evaluation:
    """Sampled and greedy accuracy of a model on the held-out problems, by `vespo eval run`.

    Args:
        evaluator: runs it.
        plan: says where the problems are.
        name: of its folder.
        model: the model's folder.
    """

    def __init__(self, evaluator: Evaluator, plan: Plan, name: str, model: Path) -> None:
        self._evaluator = evaluator
        self._plan = plan
        self._name = name
        self._model = model
        self._summary = plan.out / name / "summary.json"
        self._wait: Callable[[], None] | None = None

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self._summary.is_file()

    def start(self) -> None:
        """Begin, unless it has been done."""
        if self._wait is not None or self.done:
            return
        options: dict[str, Any] = {
            "model": self._model,
            "benchmarks": f"{self._plan.built / 'heldout.jsonl'}:{EVAL_REPEATS}",
            "out": self._summary.parent,
            "max-tokens": MAX_RESPONSE_TOKENS,
            "seed": self._plan.seed,
        }
        if self._plan.agent:
            options["agent"] = calculator.__file__
        flags = [f"--{name}={value}" for name, value in options.items()]
        log = self._plan.out / f"{self._name}.log"
        self._wait = self._evaluator.start(["--also-greedy", *flags], log)

    def result(self) -> dict[str, Any]:
        """Its summaries, `sampled` and `greedy`, as soon as it is done.

        Raises:
            RuntimeError: it failed; the message holds the end of its log.
        """
        self.start()
        if self._wait is not None:
            self._wait()
            self._wait = None
        benchmarks = json.loads(self._summary.read_text())["benchmarks"]
        return {"sampled": benchmarks["heldout"], "greedy": benchmarks["heldout-greedy"]}

    def show(self) -> None:
        """Print the result."""
        result = self.result()
        print(
            f"   {self._name} training: sampled {_percent(result['sampled'])}, "
            f"greedy {_percent(result['greedy'])}",
            flush=True,
        )


def training_flags(plan: Plan) -> list[str]:
    """The arguments of `vespo_openrlhf.train`, as a user would write them for a real model."""
    batch = PROMPTS_PER_BATCH * SAMPLES_PER_PROMPT
    scored_by: dict[str, Any] = {"reward.remote_url": _REPOSITORY / "reward" / "math_reward.py"}
    if plan.agent:
        scored_by = {
            "train.agent_func_path": calculator.__file__,
            "data.max_len": MAX_PROMPT_TOKENS
            + calculator.MAX_OBSERVATION_TOKENS
            + MAX_RESPONSE_TOKENS,
        }
    taught_by: dict[str, Any] = {}
    if plan.distill:  # and not by the reward, which is only measured
        taught_by = {
            "distill.teacher": plan.teacher / "model",
            "distill.estimator": "full",
            "ref.num_gpus_per_node": 1,
            "train.colocate_actor_ref": True,  # so that two GPUs are enough
        }
    return to_arguments(
        {
            # model, data, reward
            "actor.model_name_or_path": plan.built / "model",
            "data.prompt_dataset": plan.built / "train.jsonl",
            "data.input_key": "prompt",
            "data.label_key": "label",
            "data.apply_chat_template": True,
            "data.max_samples": PROMPTS_PER_BATCH * plan.batches,
            "data.max_len": MAX_PROMPT_TOKENS + MAX_RESPONSE_TOKENS,
            "rollout.max_new_tokens": MAX_RESPONSE_TOKENS,
            **scored_by,
            **taught_by,
            # the loss
            "actor.policy_loss_type": "vespo",
            "algo.advantage.estimator": "group_norm",
            "algo.kl.init_coef": 0,
            # off-policy: N = 8 updates per rollout batch, generated while the last one trains
            "train.async_enable": True,
            "train.partial_rollout_enable": True,
            "rollout.batch_size": PROMPTS_PER_BATCH,
            "rollout.n_samples_per_prompt": SAMPLES_PER_PROMPT,
            "rollout.in_flight_per_engine": batch,  # a step of the engine costs more than a token
            "train.batch_size": batch // UPDATES_PER_BATCH,
            "train.micro_batch_size": batch // UPDATES_PER_BATCH,
            "rollout.micro_batch_size": batch // UPDATES_PER_BATCH,
            # optimizer
            "actor.adam.lr": "4e-4",
            "actor.lr_scheduler": "cosine_with_min_lr",
            # where it runs, what it leaves
            "actor.num_gpus_per_node": 1,
            "vllm.num_engines": 1,
            "train.seed": plan.seed,
            "run.dir": plan.run_dir,
        }
    )


def _train(plan: Plan, submitted: Callable[[], None], trained: Callable[[], None]) -> None:
    """Train, unless it has been done; for the two calls see `run_job`."""
    # There before the job has ended: what fails or is interrupted after it costs no training.
    if (plan.run_dir / "finished.json").exists():
        if (batches := len(read_run(plan.run_dir, "run").train)) != plan.batches:
            raise ValueError(
                f"{plan.run_dir} holds a finished run of {batches} rollout batches: for "
                f"{plan.batches} name another folder with --out, or remove this one"
            )
        print("   found, nothing to do")
        submitted()  # first: evaluations answer in turn
        trained()
        return
    for stale in (plan.run_dir, plan.out / "after"):
        shutil.rmtree(stale, ignore_errors=True)
    plan.run_dir.mkdir(parents=True)
    log = plan.run_dir / "job.log"
    print(f"   log: {log}")
    with LocalCluster(plan.out / "ray.log") as cluster:
        print(f"   Ray dashboard: {cluster.dashboard}")
        run_job(
            cluster,
            [*training_flags(plan), "--run.record"],  # to be trained again with another loss
            log=log,
            metrics=plan.run_dir / "metrics.jsonl",
            total_steps=plan.batches,
            submitted=submitted,
            trained=trained,
        )


def _percent(mean: dict[str, float]) -> str:
    return f"{100 * mean['avg@k']:.1f} ± {100 * mean['standard_error']:.1f} %"


def _print_table(plan: Plan, before: dict[str, Any], after: dict[str, Any], seconds: float) -> None:
    width = 18
    print(f"\n{'held-out accuracy':<26}{'before':>{width}}{'after':>{width}}")
    for name, title in (("sampled", f"sampled (avg@{EVAL_REPEATS}, T=1)"), ("greedy", "greedy")):
        print(f"{title:<26}{_percent(before[name]):>{width}}{_percent(after[name]):>{width}}")
    if plan.distill:
        teacher = read_finished(plan.teacher, plan.teacher_model)
        assert teacher is not None, "built"
        print(
            f"the teacher: {100 * teacher.sampled:.1f} % sampled, {100 * teacher.greedy:.1f} % "
            "greedy; no reward was read"
        )
    if plan.agent:
        turns = [result["sampled"]["agent"]["by_turns"] for result in (before, after)]
        for turn in sorted({*turns[0], *turns[1]}):
            cells = "".join(f"{_of_turn(by_turns.get(turn)):>{width}}" for by_turns in turns)
            print(f"{f'  ended in turn {turn}':<26}{cells}")
    print(
        f"\n{plan.batches} rollout batches, {plan.batches * UPDATES_PER_BATCH} updates, "
        f"seed {plan.seed}; {seconds:.0f} s in all"
    )
    print(f"run folder: {plan.run_dir}\npicture:    {plan.picture}\nreport:     {plan.report}")


def _of_turn(ended: dict[str, float] | None) -> str:
    if ended is None:
        return "none"
    return f"{100 * ended['avg']:.0f} % of {ended['episodes']}"


def _verdict(before: dict[str, Any], after: dict[str, Any]) -> int:
    gain = after["sampled"]["avg@k"] - before["sampled"]["avg@k"]
    error = sum(mean["sampled"]["standard_error"] ** 2 for mean in (before, after)) ** 0.5
    if gain > 2 * error:
        return 0
    print(
        f"\nFAILED: training did not raise the accuracy (gain {100 * gain:.1f} points, standard "
        f"error {100 * error:.1f}). Look at the picture and the job's log above.",
        file=sys.stderr,
    )
    return 1
