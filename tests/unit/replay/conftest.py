"""A recorded run as training leaves it on the CPU stack, made by hand; its flags are resolved as
training does."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from vespo_openrlhf.bridge.flags import complete
from vespo_openrlhf.check.resolve import build_parser
from vespo_openrlhf.cpu.flags import adapt
from vespo_openrlhf.recorded.schema import Origin, RecordedSample
from vespo_openrlhf.recorded.writing import write_shard
from vespo_openrlhf.redact import redact

GROUPS = 6
SAMPLES = 4


@pytest.fixture(scope="session")
def parser() -> argparse.ArgumentParser:
    return build_parser()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What is looked at of a model before it is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"vocab_size": 64, "max_position_embeddings": 64, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def record(tmp_path: Path, model: Path, parser: argparse.ArgumentParser) -> Callable[..., Path]:
    """Makes a recorded run that was started with these flags beside what every run needs."""

    def make(*words: str, name: str = "run") -> Path:
        folder = tmp_path / name
        always = {
            "actor.model_name_or_path": model,
            "data.prompt_dataset": tmp_path / "train.jsonl",
            "data.max_samples": 2,
            "data.max_len": 64,
            "reward.remote_url": "reward/math_reward.py",
            "vllm.num_engines": 2,
            "algo.advantage.estimator": "group_norm",
            "rollout.batch_size": 4,
            "rollout.n_samples_per_prompt": SAMPLES,
            "train.batch_size": 8,
            "actor.num_gpus_per_node": 1,
            "actor.adam.lr": 3e-4,
            "logger.wandb.key": "of nobody's concern",
            "run.dir": folder,
        }
        line = [word for flag, value in always.items() for word in (f"--{flag}", str(value))]
        flags = vars(parser.parse_args([*line, "--run.record", *words]))
        complete(flags)
        adapt(flags)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(redact(flags), default=str))
        samples = [sample(ticket, place) for ticket in range(GROUPS) for place in range(SAMPLES)]
        origin = Origin("run", str(model), temperature=flags["rollout.temperature"])
        write_shard(folder / "recorded" / "000001-0000.parquet", samples, origin)
        return folder

    return make


def sample(ticket: int, place: int) -> RecordedSample:
    """Two tokens of prompt, two of response."""
    return RecordedSample(
        ticket,
        place,
        SAMPLES,
        f"{ticket}:prompt",
        numpy.array([1, 2, 3, 4 + place], numpy.int32),
        numpy.array([False, False, True, True]),
        numpy.array([0, 0, -0.5, -0.7], numpy.float32),
        reward=float(place % 2),
        token_versions=((0, 2),),
    )
