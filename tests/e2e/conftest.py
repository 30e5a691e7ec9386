"""Runs of the whole stack: OpenRLHF, Ray, vLLM and DeepSpeed in processes of their own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
from transformers import AutoTokenizer

from vespo_openrlhf.embedded.arithmetic import split_problems, write_jsonl
from vespo_openrlhf.embedded.model import build_model, reproducible
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.recorded.schema import Origin, RecordedSample, tokenizer_digest
from vespo_openrlhf.recorded.writing import ShardWriter

HERE = Path(__file__).parent
PROMPTS = 128  # of the runs of `record`
MARK = "VESPO_TEST_RUN"
TIMEOUT_S = 300


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: Path
    output: str

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Of every batch."""
        return self.lines("train")

    def lines(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == kind]


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model and its prompts: enough for everything but accuracy."""
    folder = tmp_path_factory.mktemp("untrained")
    tokenizer = build_tokenizer()
    with reproducible(0):
        build_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_jsonl(folder / "train.jsonl", split_problems(0, [256])[0])
    return folder


@pytest.fixture(scope="session")
def mixture(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained mixture whose router is sure of its choice: it gives the first of
    its experts 0.85 of a token."""
    folder = tmp_path_factory.mktemp("mixture")
    tokenizer = AutoTokenizer.from_pretrained(untrained / "model")
    with reproducible(0):
        model = build_model(tokenizer, moe=True)
        for layer in model.model.layers:
            layer.mlp.gate.weight.data *= 10
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def training_command(data: Path, folder: Path, **flags: Any) -> list[str]:
    """`python -m vespo_openrlhf.train` on small batches; names as `actor__adam__lr`."""
    settings = {
        "actor.model_name_or_path": data / "model",
        "data.prompt_dataset": data / "train.jsonl",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.apply_chat_template": True,
        "data.max_len": 64,
        "rollout.max_new_tokens": 32,
        # An untrained model is never right; this reward still tells its samples apart.
        "reward.remote_url": HERE / "even_digits_reward.py",
        "actor.policy_loss_type": "vespo",
        "algo.advantage.estimator": "group_norm",
        "algo.kl.init_coef": 0,
        "rollout.batch_size": 16,
        "rollout.n_samples_per_prompt": 4,
        "rollout.micro_batch_size": 16,
        "train.batch_size": 16,
        "train.micro_batch_size": 16,
        "actor.num_gpus_per_node": 1,
        "vllm.num_engines": 1,
        "actor.adam.lr": "1e-3",
        "actor.lr_scheduler": "constant",
        "actor.lr_warmup_ratio": 0,
        "run.dir": folder,
    } | {name.replace("__", "."): value for name, value in flags.items()}
    arguments = []
    for flag, value in settings.items():
        if value is not False:
            values = value if isinstance(value, list) else [] if value is True else [value]
            arguments += [f"--{flag}", *map(str, values)]
    return [sys.executable, "-m", "vespo_openrlhf.train", *arguments]


@pytest.fixture(scope="session")
def command(untrained: Path) -> Callable[..., list[str]]:
    """`training_command` on the untrained model: `command(folder, **flags)`."""
    return functools.partial(training_command, untrained)


@pytest.fixture(scope="session")
def train(
    command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Trains to the end and hands over the run; fails with the end of its output."""

    def run(environment: dict[str, str] | None = None, **flags: Any) -> Run:
        folder = tmp_path_factory.mktemp("train")
        finished = subprocess.run(
            command(folder, **flags),
            env=os.environ | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout[-6000:]
        return Run(folder, finished.stdout)

    return run


@pytest.fixture(scope="session")
def record(
    train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, int, bool, bool], tuple[Run, Path]]:
    """An asynchronous run of 16 or 32 updates, and the folder in which engine and trainer wrote
    down what they did: `record(bound, updates_per_batch, partial_rollout, agent)`, each once."""

    @functools.cache
    def run(
        bound: int, updates_per_batch: int, partial_rollout: bool, agent: bool = False
    ) -> tuple[Run, Path]:
        of_agent = {
            "reward__remote_url": False,
            "train__agent_func_path": HERE / "two_turns.py",
            "data__max_len": 96,
            "rollout__episode_timeout": 10,
            "agent__max_turns": 3,
        }
        folder = tmp_path_factory.mktemp("recorded")
        path = os.pathsep.join(filter(None, [str(HERE / "recorder"), os.environ.get("PYTHONPATH")]))
        finished = train(
            environment={
                **{"VESPO_TEST_RECORD": str(folder), "PYTHONPATH": path},
                "VESPO_TEST_HARD_AGENT": "1",
            },
            train__async_enable=True,
            train__partial_rollout_enable=partial_rollout,
            train__batch_size=64 // updates_per_batch,
            train__num_episodes=2 if updates_per_batch == 1 else 1,
            data__max_samples=PROMPTS,
            lag__max=bound,
            # With one of them, a loss that scales the step; the lag is the same.
            actor__policy_loss_type="vespo" if partial_rollout else "vcpo",
            **(of_agent if agent else {}),
        )
        return finished, folder

    return run


@contextlib.contextmanager
def mark_processes() -> Iterator[tuple[dict[str, str], Callable[[], list[psutil.Process]]]]:
    """An environment, and the live processes that were started in it; none is left behind."""
    mark = uuid.uuid4().hex

    def alive() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark:
                    found.append(process)
            except psutil.Error:
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    yield {**os.environ, MARK: mark}, alive
    for process in alive():
        process.kill()


@pytest.fixture
def marked() -> Iterator[tuple[dict[str, str], Callable[[], list[psutil.Process]]]]:
    with mark_processes() as environment_and_processes:
        yield environment_and_processes


@pytest.fixture(scope="module")
def marked_module() -> Iterator[tuple[dict[str, str], Callable[[], list[psutil.Process]]]]:
    with mark_processes() as environment_and_processes:
        yield environment_and_processes


@pytest.fixture(scope="session")
def recording(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 16 groups of 4 that no engine has made: any responses, without log-probs."""
    folder = tmp_path_factory.mktemp("recording")
    tokenizer = AutoTokenizer.from_pretrained(untrained / "model")
    rng = numpy.random.default_rng(0)
    writer = ShardWriter(folder, Origin("table", "nobody", tokenizer_digest(tokenizer)))
    for ticket in range(16):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{100 + ticket}+{200 + ticket}="}],
            add_generation_prompt=True,
            return_dict=False,
        )
        for sample in range(4):
            response = rng.integers(0, len(tokenizer), 4 + (ticket + sample) % 9)
            tokens = numpy.array([*prompt, *response, tokenizer.eos_token_id])
            sampled = numpy.arange(len(tokens)) >= len(prompt)
            writer.add(
                RecordedSample(
                    *(ticket, sample, 4, f"{ticket}:sum", tokens, sampled),
                    reward=float(rng.integers(2)),
                    prompt=tokenizer.decode(prompt),
                )
            )
    writer.flush()
    return folder
