"""What a chaos run consists of: a Ray cluster of three nodes, a reward server, a training."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from vespo_openrlhf.chaos import audit, monitor, reward_server
from vespo_openrlhf.chaos.disk import SmallDisk
from vespo_openrlhf.embedded.arithmetic import split_problems, write_jsonl
from vespo_openrlhf.embedded.model import build_model, reproducible
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.quickstart.job import to_arguments
from vespo_openrlhf.quickstart.local_ray import LocalCluster, LocalNode, free_port

ENGINES = 2
PROMPTS_PER_BATCH = 16
SAMPLES_PER_PROMPT = 4
BOUND = 8
SAVE_EVERY = 2
_DISK_MB = 64
_ENGINE_TIMEOUT_S = 60  # a busy machine is no reason to give an engine up


class Stack:
    """A context manager; at its end nothing of it is left but the folder.

    Args:
        folder: takes the run, its logs and its data; there must be no run in it.
        rows: prompts to train, once.
        seed: of the data and the training.
        per_second: verdicts that the reward server gives in a second, until `release`.
        flags: more arguments of `vespo_openrlhf.train`.
    """

    def __init__(
        self, folder: Path, rows: int, seed: int, per_second: float, flags: Sequence[str] = ()
    ) -> None:
        self.run = folder / "run"
        self.rows = rows
        self.resumes: list[audit.Resume] = []
        self._folder = folder
        self._seed = seed
        self._pace = [str(per_second), str(folder / "release")]
        self._flags = flags
        self._starts = 0
        self._steps_before = 0

    def __enter__(self) -> Stack:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "release").unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            self.disk = SmallDisk(self._folder / "disk", _DISK_MB)
            stack.callback(self.disk.close)
            self._make_data()
            # Whatever this process starts carries the cluster's mark and is ended with it.
            self._cluster = stack.enter_context(
                LocalCluster(self._folder / "ray.log", 1, labels={"group": "trainer"})
            )
            self.nodes = [self.new_node() for _ in range(ENGINES)]
            self._port = free_port()
            self.start_reward()
            self.start_training()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def new_node(self) -> LocalNode:
        """Another node for an engine."""
        return self._cluster.add_node(labels={"group": "rollout"})

    def start_reward(self) -> None:
        """Start the reward server, again on the same port."""
        command = [sys.executable, "-m", reward_server.__name__, str(self._port), *self._pace]
        self.reward = subprocess.Popen(command, env=self._cluster.environment)

    def release(self) -> None:
        """From here on the reward server gives as many verdicts as it can."""
        Path(self._pace[1]).touch()

    def start_training(self) -> None:
        """Start it, or resume it; each start has a log of its own."""
        self._starts += 1
        self._steps_before = monitor.steps(self.run)
        environment = {**self._cluster.environment, "RAY_ADDRESS": self._cluster.address}
        with open(self.log_file, "wb") as output:
            self.training = subprocess.Popen(
                [sys.executable, "-m", "vespo_openrlhf.train", *self._arguments()],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def note_resume(self) -> None:
        """The run goes on, or has failed to: what its log says it went on from."""
        self.resumes.append(audit.Resume(self._steps_before, audit.resumed_at(self.log)))

    @property
    def log_file(self) -> Path:
        """The log of the last start."""
        return self._folder / f"train-{self._starts}.log"

    @property
    def log(self) -> str:
        """The text of it so far."""
        return self.log_file.read_text(errors="replace")

    def engine_processes(self, node: int, core: bool) -> list[psutil.Process]:
        """The process of the engine of a node: its vLLM core, or the actor around it."""
        names = ("EngineCore",) if core else ("VersionedRollout", "RolloutRayActor")
        found = []
        for process in self.nodes[node].processes():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if any(name in title for name in names):
                    found.append(process)
        assert found, f"node {node} runs nothing that is called {' or '.join(names)}"
        return found

    def _make_data(self) -> None:
        tokenizer = build_tokenizer()
        model = self._folder / "model"
        with reproducible(self._seed):
            build_model(tokenizer).save_pretrained(model)
        tokenizer.save_pretrained(model)
        write_jsonl(self._folder / "train.jsonl", split_problems(self._seed, [self.rows])[0])

    def _arguments(self) -> list[str]:
        checkpoints = self.disk.folder if self.disk.mounted else self._folder
        flags = {
            "actor.model_name_or_path": self._folder / "model",
            "data.prompt_dataset": self._folder / "train.jsonl",
            "data.input_key": "prompt",
            "data.label_key": "label",
            "data.apply_chat_template": True,
            "data.max_len": 64,
            "rollout.max_new_tokens": 32,
            "reward.remote_url": f"http://127.0.0.1:{self._port}/get_reward",
            "actor.policy_loss_type": "vespo",
            "algo.advantage.estimator": "group_norm",
            "algo.kl.init_coef": 0,
            "rollout.batch_size": PROMPTS_PER_BATCH,
            "rollout.n_samples_per_prompt": SAMPLES_PER_PROMPT,
            "rollout.micro_batch_size": 16,
            "rollout.in_flight_per_engine": 32,
            "rollout.engine_timeout": _ENGINE_TIMEOUT_S,
            "train.batch_size": 16,
            "train.micro_batch_size": 16,
            "train.async_enable": True,
            "train.partial_rollout_enable": True,
            "train.seed": self._seed,
            "lag.max": BOUND,
            "actor.num_gpus_per_node": 1,
            "vllm.num_engines": ENGINES,
            "nodes.trainer": "group=trainer",
            "nodes.rollout": "group=rollout",
            "actor.adam.lr": 1e-4,
            "actor.lr_scheduler": "constant",
            "actor.lr_warmup_ratio": 0,
            "ckpt.save_steps": SAVE_EVERY,
            "ckpt.max_num": 2,
            "ckpt.path": checkpoints / "checkpoints",
            "run.dir": self.run,
        }
        resume = {"ckpt.load_enable": True} if self._starts > 1 else {}
        return [*to_arguments(flags | resume), *self._flags]


def kill(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    """kill -9, and wait until it is gone."""
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)
        process.wait()
