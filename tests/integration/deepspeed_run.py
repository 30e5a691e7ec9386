"""A training run of two tiny models as far as its disk goes, for scripts that break it.

The engines are DeepSpeed's, and what saves, rotates, chooses and loads is the trainer's, the
actors' and the driver's own code. Left out are Ray, which calls it, and what is trained on. Every
step is saved, so that a run does little else.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402
from deepspeed.comm.torch import build_shm_op  # noqa: E402, F401  (loaded once for many forks)
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.utils.deepspeed import DeepspeedStrategy  # noqa: E402

from vespo_openrlhf.bridge import resume  # noqa: E402
from vespo_openrlhf.bridge.actor import CriticActor, PolicyActor  # noqa: E402
from vespo_openrlhf.bridge.rank import checkpoint  # noqa: E402
from vespo_openrlhf.bridge.run import records  # noqa: E402
from vespo_openrlhf.bridge.run.folder import METRICS_FILE, RunFolder  # noqa: E402
from vespo_openrlhf.bridge.run.records import MetricsFile  # noqa: E402
from vespo_openrlhf.bridge.run.state import BufferedRollouts, RunState, Snapshot  # noqa: E402
from vespo_openrlhf.bridge.wire import Rollout  # noqa: E402
from vespo_openrlhf.recorded.reading import STAMPS_FILE  # noqa: E402
from vespo_openrlhf.scheduling import PromptLedger  # noqa: E402

PROMPTS_PER_STEP = 2
UPDATES_PER_STEP = 1
MAX_STEPS = 10_000


def build_engine(stage: int, dtype: str, lr: float = 1e-2, width: int = 64) -> Any:
    """An engine with AdamW and a linear schedule that ends after 100 updates."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Linear(width, 4))
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer, [lambda update: max(0.0, 1 - update / 100)] * len(optimizer.param_groups)
        ),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "bf16": {"enabled": dtype == "bf16"},
            "optimizer": {"type": "AdamW", "params": {"lr": lr, "torch_adam": True}},
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        },
    )
    return engine


def update(engine: Any) -> None:
    """One optimizer step."""
    dtype = next(engine.module.parameters()).dtype
    engine.backward(engine(torch.ones(1, engine.module[0].in_features, dtype=dtype)).sum())
    engine.step()


class Run:
    """The driver, the trainer and both actors, in one process.

    Args:
        folder: the run folder.
        max_num: `--ckpt.max_num`.
    """

    def __init__(self, folder: Path, max_num: int = 2) -> None:
        flags = {
            "run.dir": str(folder),
            "ckpt.path": str(folder / "checkpoints"),
            "ckpt.load_enable": True,
            "ckpt.save_steps": 1,
            "ckpt.disable_ds": False,
            "train.num_episodes": 1,
        }
        self.run = RunFolder(folder)
        self.lock = self.run.locked()
        self.lock.__enter__()
        resume.prepare(flags, self.run)
        self.run.begin(flags, {})
        args = SimpleNamespace(
            ckpt=SimpleNamespace(
                path=flags["ckpt.path"],
                resume_tag=flags["ckpt.resume_tag"],
                max_num=max_num,
                max_mem=float("inf"),
                save_steps=1,
            ),
            ds=SimpleNamespace(use_universal_ckpt=False),
        )
        self.actor, self.critic = self._actors(args)
        self.ledger = PromptLedger([f"p{i}" for i in range(PROMPTS_PER_STEP * MAX_STEPS)])
        self.state = RunState(args.ckpt)
        self.rollouts = BufferedRollouts(Path(args.ckpt.path))
        self.step = 0
        self.resume()
        self.metrics = MetricsFile(folder / METRICS_FILE)

    def _actors(self, args: Any) -> tuple[Any, Any]:
        actors = []
        for cls, name in ((PolicyActor, "actor"), (CriticActor, "critic")):
            actor: Any = object.__new__(cls)
            actor.strategy = object.__new__(DeepspeedStrategy)
            actor.strategy.args = args
            actor.disable_ds_ckpt = actor.save_hf_ckpt = False
            checkpoint.install(actor.strategy)
            actor.engine = build_engine(1, "bf16")
            setattr(actor, name, SimpleNamespace(model=actor.engine))
            if name == "critic":
                actor.critic = actor.engine
            actor.folder = str(Path(args.ckpt.path) / f"_{name}")
            actors.append(actor)
        return actors[0], actors[1]

    def resume(self) -> None:
        """As the actors and then the trainer do; everything must be of one step."""
        _, states = self.actor.strategy.load_ckpt(self.actor.engine, self.actor.folder)
        self.critic.strategy.load_ckpt(self.critic.engine, self.critic.folder)
        self.step = states.get("global_step", 0)
        if self.step:
            rollouts = self.rollouts.load(f"global_step{self.step}")
            found = {ticket: [r.request_ids for r in group] for ticket, group in rollouts.items()}
            assert found == {self.step: [(str(self.step),)]}, (found, self.step)
            self.ledger.load_state_dict(json.loads(states["scheduler"]), elsewhere=set())
        assert self.actor.engine.global_steps == self.critic.engine.global_steps == self.step
        assert self.ledger.drawn == PROMPTS_PER_STEP * self.step
        self.run.resume_at(self.step, UPDATES_PER_STEP * self.step)
        logged = {line["step"]: line["weights"] for line in self.lines(METRICS_FILE)}
        assert list(logged) == list(range(1, self.step + 1)), (list(logged), self.step)
        if self.step:
            assert logged[self.step] == self.weights()
        samples = [line["update"] for line in self.lines(STAMPS_FILE)]
        assert samples == list(range(UPDATES_PER_STEP * self.step))

    def weights(self) -> list[float]:
        """A sum over either model's master weights, exactly as they are."""
        return [
            float(actor.engine.optimizer.single_partition_of_fp32_groups[0].detach().double().sum())
            for actor in (self.actor, self.critic)
        ]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Of a file of records, of which a kill may have torn the last before a resume."""
        path = self.run.path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def train(self, saved: Callable[[int], None], until: int = MAX_STEPS) -> None:
        """Train and save, step by step; `saved` is told of each that is."""
        while self.step < until:
            for _ in range(PROMPTS_PER_STEP):
                self.ledger.settle(self.ledger.draw(), "trained")
            for actor in (self.actor, self.critic):
                update(actor.engine)
            self.step += 1
            samples = iter([{"update": self.step - 1}])
            records.append_lines(self.run.path / STAMPS_FILE, samples)
            states = {
                "global_step": self.step,
                "scheduler": json.dumps(self.ledger.state_dict()),
            }
            rollout = Rollout(Experience(info={}), (str(self.step),))
            snapshot = Snapshot(self.step, states, {self.step: [rollout]})
            save_models = functools.partial(self._save_all, snapshot.step, snapshot.states)
            self.state.save(snapshot, save_models)
            saved(self.step)

    def _save_all(self, step: int, states: dict[str, Any]) -> None:
        """What OpenRLHF's trainer does through Ray: log, then save actor and critic."""
        self.metrics.log_train(step, {"weights": self.weights()})
        self.actor.save_checkpoint(f"global_step{step}", client_states=states, metric_value=-step)
        self.critic.save_checkpoint(f"global_step{step}", metric_value=-step)
