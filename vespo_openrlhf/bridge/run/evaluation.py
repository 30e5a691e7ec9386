"""`--eval.*` of OpenRLHF with the harness's metrics and records, on the training engines.

OpenRLHF's own evaluation keys samples on the prompt's text, reports a mean and a maximum, and
keeps nothing. Here every sample is a record under its problem's id, in the run folder, as
`vespo eval run` writes them: `RUN_DIR/eval/step_000010/<datasource>/generations.jsonl` and
`summary.json`; so `vespo eval compare` and `report` take two steps of a run, or two runs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from openrlhf.datasets.utils import blending_datasets

from vespo_openrlhf import reward
from vespo_openrlhf.bridge.driver import Driver, RayEngine
from vespo_openrlhf.eval.judging.verdicts import judge_all, verifier_version
from vespo_openrlhf.eval.metrics import summarise
from vespo_openrlhf.eval.results.folder import Folder
from vespo_openrlhf.eval.running.plan import prompt_hash

FOLDER = "eval"
_ID_COLUMNS = ("unique_id", "id")
# What OpenRLHF sends to the engines from its flags, as far as it decides the responses.
_SETTINGS = ("temperature", "top_p", "top_k", "max_new_tokens", "min_new_tokens")

logger = logging.getLogger(__name__)


class Evaluations:
    """OpenRLHF's `--eval.steps`.

    Args:
        samples_generator: OpenRLHF's, with its evaluation data; its engines are given at each.
        generate_kwargs: OpenRLHF's sampling options of the rollouts.
        step: rollout batches already trained.
    """

    def __init__(
        self, samples_generator: Any, generate_kwargs: Mapping[str, Any], step: int
    ) -> None:
        flags = samples_generator.args.eval
        self._generator = samples_generator
        self._options = {
            **generate_kwargs,
            "temperature": flags.temperature,
            "n_samples_per_prompt": flags.n_samples_per_prompt,
        }
        self._every = flags.steps
        self._last = step

    def due(self, step: int) -> bool:
        """Whether so many rollout batches are enough for the next."""
        there = self._generator.eval_dataloader is not None
        return there and step // self._every != self._last // self._every

    async def run_if_due(
        self, step: int, engines: Sequence[RayEngine], driver: Driver
    ) -> dict[str, float] | None:
        """Evaluate the weights that all `engines` have just been given.

        Returns:
            Metrics to log; None where it is not due, an engine died in it or a reward hangs.
        """
        if not self.due(step):
            return None
        self._last = step
        self._generator.vllm_engines = [engine.actor for engine in engines]
        try:
            return await asyncio.to_thread(evaluate, self._generator, step, **self._options)
        except ray.exceptions.RayError as error:
            reason = "an engine died in it"
            if len(await driver.ask(engines, "is_alive")) == len(engines):
                if not isinstance(error, TimeoutError):
                    raise
                reason = str(getattr(error, "cause", error))
            logger.warning("no evaluation at global step %d: %s", step, reason)
            return None


def evaluate(samples_generator: Any, step: int, **generate_kwargs: Any) -> dict[str, float]:
    """Sample the evaluation problems on the training engines, judge, record, and summarise.

    Args:
        samples_generator: OpenRLHF's, with its engines, tokenizer and evaluation data. The
            engines are awake, and stay so: the next rollouts are theirs.
        step: of training; names the folder. One that is there is replaced.
        generate_kwargs: OpenRLHF's sampling options, with ``n_samples_per_prompt``.

    Returns:
        Metrics to log: OpenRLHF's ``eval_<datasource>_pass1`` and so on, and beside them the
        standard error, every pass@k and maj@k, and the rates.
    """
    args = samples_generator.args
    started = time.monotonic()
    problems = _problems(samples_generator)
    records = _sample(samples_generator, problems, generate_kwargs)
    seconds = time.monotonic() - started
    judged: dict[str, list[dict[str, Any]]] = {}
    for record in _judge(records, args.train.agent_func_path or args.reward.remote_url):
        judged.setdefault(record["benchmark"], []).append(record)
    tokens = sum(record["tokens"] for record in records)
    summaries = {
        # The engines answer all datasources at once: one rate for all of them.
        name: {**summarise(group), "tokens_per_second": tokens / seconds}
        for name, group in judged.items()
    }
    if args.run.dir is not None:
        folder = Path(args.run.dir) / FOLDER / f"step_{step:06d}"
        _write(folder, step, args, generate_kwargs, judged, summaries)
    return flat(summaries)


def _problems(samples_generator: Any) -> list[dict[str, Any]]:
    """The evaluation problems in OpenRLHF's order, each with its id: id, benchmark, prompt, ..."""
    args, dataset = samples_generator.args, samples_generator.eval_dataloader.dataset
    # OpenRLHF's data set drops the columns that it has no use for, the id among them.
    rows = blending_datasets(
        args.eval.dataset, None, samples_generator.strategy, dataset_split=args.eval.split
    )
    rows = rows.select(range(len(dataset)))
    column = next((name for name in _ID_COLUMNS if name in rows.column_names), None)
    keys = [str(key) for key in rows[column]] if column else []
    names = [re.sub(r"[^\w.-]+", "_", str(name)) or "default" for name in dataset.datasources]
    if len(set(zip(names, keys, strict=False))) != len(rows):
        keys = [str(number) for number in range(len(rows))]
    return [
        {"benchmark": names[i], "id": keys[i], "prompt": dataset.prompts[i]}
        | {"gold": str(dataset.labels[i]), "label": dataset.labels[i], "image": dataset.images[i]}
        for i in range(len(rows))
    ]


def _sample(
    samples_generator: Any, problems: Sequence[Mapping[str, Any]], generate_kwargs: dict[str, Any]
) -> list[dict[str, Any]]:
    """Records without a verdict. One reference comes back a prompt, in the order of the prompts.

    OpenRLHF's public way yields responses as they are done, and leaves no telling whose they are.
    """
    references = samples_generator._dispatch_prompts_to_vllm(
        [problem["prompt"] for problem in problems],
        [problem["label"] for problem in problems],
        images=[problem["image"] for problem in problems],
        **generate_kwargs,
    )
    answers = ray.get(references)
    decode = samples_generator.tokenizer.decode
    records = []
    for problem, responses in zip(problems, answers, strict=True):
        for repeat, response in enumerate(responses):
            tokens = [
                token
                for start, end in response["action_ranges"]
                for token in response["observation_tokens"][start:end]
            ]
            records.append(
                {
                    "benchmark": problem["benchmark"],
                    "id": problem["id"],
                    "repeat": repeat,
                    "seed": None,  # OpenRLHF sends none
                    "prompt_hash": prompt_hash(problem["prompt"]),
                    "prompt": problem["prompt"],
                    "gold": problem["gold"],
                    "response": decode(tokens, skip_special_tokens=False),
                    "tokens": len(tokens),
                    "finish_reason": "length" if response.get("truncated") else "stop",
                    "score": _number(response.get("scores")),
                }
            )
    return records


def _number(value: Any) -> float | None:
    if value is None:
        return None
    return float(value.item() if hasattr(value, "item") else value)


def _judge(
    records: list[dict[str, Any]], reward_files: str | Sequence[str] | None
) -> list[dict[str, Any]]:
    """Verdicts of our verifier; of the user's own reward, or agent, where the run has one: its
    plain score.

    Args:
        records: without verdicts, but with the reward's ``score``.
        reward_files: ``--reward.remote_url``, which OpenRLHF splits at commas, or the agent's.
    """
    files = [reward_files] if isinstance(reward_files, str) else list(reward_files or [])
    ours = Path(reward.__file__).with_name("math_reward.py")
    if all(Path(file).exists() and ours.samefile(file) for file in files):
        plain = [{name: r[name] for name in r if name != "score"} for r in records]
        return list(judge_all(plain, {}))
    from vespo_openrlhf.reward.reading.extract import extract

    judged = []
    for record in records:
        score = record.pop("score")
        answers = extract(record["response"]).answers
        scored = score is not None and not math.isnan(score)
        right = scored and score > 0.5
        judged.append(
            {
                **record,
                "extracted": ", ".join(answers) if answers else None,
                "correct": right,
                "reason": "correct" if right else "wrong" if scored else "unavailable",
                "verifier": ", ".join(Path(file).name for file in files),
            }
        )
    return judged


def _write(
    path: Path,
    step: int,
    args: Any,
    generate_kwargs: Mapping[str, Any],
    judged: Mapping[str, list[dict[str, Any]]],
    summaries: Mapping[str, Any],
) -> None:
    model = f"{args.actor.model_name_or_path}, step {step}"
    settings = {name: generate_kwargs.get(name) for name in _SETTINGS}
    folder = Folder(path)
    try:
        folder.begin(
            {
                "model": model,
                "revision": None,
                "settings": {"engine": "training", **settings},
                "benchmarks": {
                    name: {
                        "rows": summary["problems"],
                        "repeats": summary["repeats"],
                        "checksum": None,
                        "source": args.eval.dataset,
                        "licence": "",
                        "template": None,
                        "temperature": settings["temperature"],
                    }
                    for name, summary in summaries.items()
                },
                "versions": {"verifier": verifier_version()},
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
            fresh=True,
        )
        for name, group in judged.items():
            folder.generations(name).replace(group)
        average = sum(s["avg@k"] for s in summaries.values()) / len(summaries)
        folder.write_summary({"model": model, "benchmarks": summaries, "average": average})
    finally:
        folder.close()


def flat(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Summaries as one dict of numbers, under OpenRLHF's names where it has one."""
    logs: dict[str, float] = {}
    samples = 0
    for name, numbers in summaries.items():
        samples += numbers["problems"] * numbers["repeats"]
        values = {
            **{f"pass{k}": value for k, value in numbers["pass@k"].items()},
            **{f"maj{k}": value for k, value in numbers["maj@k"].items() if k != "1"},
            "standard_error": numbers["standard_error"],
            "response_length_mean": numbers["length"]["mean"],
            "truncated_rate": numbers["truncation_rate"],
            "extraction_rate": numbers["extraction_rate"],
            "timeout_rate": numbers["timeout_rate"],
        }
        logs |= {f"eval_{name}_{key}": v for key, v in values.items() if v is not None}
    for key in ("response_length_mean", "truncated_rate"):
        whole = [
            (logs[f"eval_{name}_{key}"], numbers["problems"] * numbers["repeats"])
            for name, numbers in summaries.items()
            if f"eval_{name}_{key}" in logs
        ]
        if whole:
            logs[f"eval_{key}"] = sum(v * n for v, n in whole) / sum(n for _, n in whole)
    logs["eval_num_samples"] = float(samples)
    return logs
