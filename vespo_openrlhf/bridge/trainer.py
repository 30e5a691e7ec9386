"""OpenRLHF's trainer under our scheduler: synchronous and asynchronous are one loop.

One Ray worker, on the node of the command line. What it does for the scheduler is here; what it
tells is in `run/log.py`, what it keeps for a resume in `run/state.py`, and how engines get their
weights in `weights/publishing.py`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.utils.logging_utils import init_logger
from openrlhf.utils.utils import get_tokenizer
from vllm import SamplingParams

from vespo_openrlhf import config
from vespo_openrlhf.agents.options import AgentOptions
from vespo_openrlhf.bridge import collector
from vespo_openrlhf.bridge.driver import Driver, PromptRow, RayEngine
from vespo_openrlhf.bridge.errors import StoppedError
from vespo_openrlhf.bridge.events import RolloutConfig, SampleLimits
from vespo_openrlhf.bridge.flags import flatten
from vespo_openrlhf.bridge.loss import skips_old_log_probs, teaches_fully
from vespo_openrlhf.bridge.rank.update_metrics import UPDATES
from vespo_openrlhf.bridge.roles import teacher_model
from vespo_openrlhf.bridge.rules.moe import replays
from vespo_openrlhf.bridge.run.dataset import check_given_up, prompt_ledger, settle_lengths
from vespo_openrlhf.bridge.run.evaluation import Evaluations
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.bridge.run.log import RunLog
from vespo_openrlhf.bridge.run.state import RunState, Snapshot
from vespo_openrlhf.bridge.samples import mini_batches
from vespo_openrlhf.bridge.samples.experience import ExperienceMaker
from vespo_openrlhf.bridge.samples.recorder import Recorder
from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.bridge.weights import check as weight_check
from vespo_openrlhf.bridge.weights.publishing import Publisher
from vespo_openrlhf.bridge.wire import Share
from vespo_openrlhf.recorded.schema import Origin, tokenizer_digest
from vespo_openrlhf.scheduling import (
    Batch,
    BatchReport,
    Engine,
    Group,
    PolicyError,
    PromptLedger,
    Scheduler,
    TrainStep,
)
from vespo_openrlhf.scheduling.options import RolloutOptions

logger = logging.getLogger(__name__)


class ScheduledTrainer(ppo_trainer.BasePPOTrainer):
    """Stands for `PPOTrainer` and `PPOTrainerAsync`; see `scheduling.Trainer`.

    Takes what they take. `fit` trains to the end of the data, or goes on from a checkpoint.
    """

    tensorboard_logger: Any

    def __init__(
        self,
        pretrain: str,
        strategy: Any,
        actor_model_group: Any,
        critic_model_group: Any,
        reward_model_group: Any,
        reference_model_group: Any,
        vllm_engines: list[Any],
        **generate_kwargs: Any,
    ) -> None:
        init_logger("vespo_openrlhf")  # in this process, all of ours as OpenRLHF's
        args = strategy.args
        for often, name in ((args.eval, "steps"), (args.ckpt, "save_steps")):
            if getattr(often, name) == -1:  # never; OpenRLHF's own trainer rewrites it in its fit
                setattr(often, name, math.inf)
        flags = flatten(args)
        tokenizer = get_tokenizer(
            pretrain, None, "left", strategy, use_fast=not args.data.disable_fast_tokenizer
        )
        super().__init__(
            strategy,
            actor_model_group,
            critic_model_group,
            reward_model_group,
            reference_model_group,
            vllm_engines,
            tokenizer,
        )
        # In the place of the one that OpenRLHF has just made, whose advantages count samples that
        # have no verdict.
        self.experience_maker = ExperienceMaker(
            *(actor_model_group, critic_model_group, reward_model_group, reference_model_group),
            *(self.kl_ctl, strategy, tokenizer),
            recomputes=not skips_old_log_probs(flags),
            teaches=teacher_model(flags) is not None,
            teaches_fully=teaches_fully(flags),
        )
        self._replays = replays(flags)
        self._teaches_fully = teaches_fully(flags)
        self._by_turn = flags["agent.weight"] == "turn"
        self._config = scheduler_config(flags)
        self._options = config.read(RolloutOptions, flags)
        # OpenRLHF asks vLLM for at least one token, and vLLM then takes the end of sequence out
        # of the first token's distribution: log W would be off by log(1 - p(end)) on every
        # sample. A response that ends at once still holds its end token.
        self._generate_kwargs = {"min_new_tokens": 0, **generate_kwargs}
        problems = self._read_data(flags)
        data = (None, problems, tokenizer, vllm_engines)  # prompts are the scheduler's
        self._samples_generator = SamplesGenerator(strategy, *data)
        self._state = RunState(args.ckpt)
        self._run = RunFolder(Path(args.run.dir)) if args.run.dir is not None else None
        self._driver: Driver
        self._log: RunLog
        self._publisher: Publisher
        self._evaluations: Evaluations
        self._weights = asyncio.Lock()  # held while the actors' weights must not change
        self._global_step = 0
        self._updates: list[list[Any]] = []

    def get_max_steps(self) -> int:
        """Optimizer updates of the whole run, for the learning rate's schedule: of the prompts that
        are trained. OpenRLHF's counts those that were left out as too long, too."""
        samples = len(self._ledger().names) * self._config.samples_per_prompt
        updates: int = samples // self.args.train.batch_size * self.args.train.num_episodes
        return updates

    # -- the data

    def _read_data(self, flags: Mapping[str, Any]) -> Any:
        """Before anything else is there. Returns OpenRLHF's loader of problems to evaluate on, or
        None."""
        prompts, problems, _ = ppo_trainer.prepare_datasets(self.strategy, self.tokenizer)
        self._prompts = prompts.dataset
        settle_lengths(self._prompts, self.tokenizer, flags)
        return problems

    def _ledger(self) -> PromptLedger:
        """A new one over the data."""
        return prompt_ledger(self._prompts, self.args)

    def _rows(self) -> list[PromptRow]:
        """What the rollout actors are asked, by row of the data."""
        data = self._prompts
        return [PromptRow(*row) for row in zip(data.prompts, data.labels, data.images, strict=True)]

    def _engines(self) -> Mapping[str, Engine] | None:
        """What the scheduler sends to, by name; None: the rollout actors."""
        return None

    async def _prepare(self) -> None:
        """What is done to the data with the models, before the first batch."""

    def _hand_over_teachers_head(self) -> None:
        """Every rank of the policy gets the teacher's output layer."""
        (weight, *_) = ray.get(self.reference_model_group.async_run_method("output_weight"))
        given = self.actor_model_group.async_run_method(
            "take_teachers_head", weight=ray.put(weight)
        )
        ray.get(given)

    # -- start and end

    async def fit(self) -> None:
        """Train. Raises what went wrong in any of the parts."""
        collector.settle()
        states = await asyncio.to_thread(self.init_checkpoint_states)
        self.restore_best_checkpoint_state(states)
        # No step in it: killed before the first checkpoint was whole.
        self._global_step = states.get("global_step", 0)
        await self._prepare()
        if self._teaches_fully:
            await asyncio.to_thread(self._hand_over_teachers_head)
        ledger = self._ledger()
        scheduler = Scheduler(
            self._config,
            ledger,
            self,
            clock=time.monotonic,
            accept=self._accept if self.args.algo.dynamic_filtering_enable else None,
            on_batch=self._on_batch,
        )
        if self._global_step:
            self._state.restore(scheduler, states)
        if self._run:
            self._run.resume_at(self._global_step, scheduler.version)
        batches = -(-len(ledger.names) * ledger.epochs // self._config.prompts_per_batch)
        self._build_parts(scheduler, batches)
        if self.args.vllm.enable_sleep:
            await asyncio.gather(*(engine.wake_up.remote() for engine in self.vllm_engines or []))
        await self._run_to_the_end(scheduler)

    def _build_parts(self, scheduler: Scheduler, batches: int) -> None:
        """What runs beside the scheduler; the records of a resumed run are cut by now.

        Args:
            batches: of the whole run.
        """
        rows, actors = self._rows(), self.vllm_engines or []
        rollout_config = RolloutConfig(
            self.tokenizer,
            self._sampling(),
            self.args.data.max_len,
            self._limits(),
            self._config.lag.kv == "keep",
        )
        recorder = self._recorder()
        self._driver = Driver(
            *(scheduler, rows, actors, rollout_config, self._options.engine_timeout),
            no_restart=self._why_no_restart if self._shares_gpus() else None,
            recorder=recorder,
        )
        trials = weight_check.trial_prompts(
            [row.prompt for row in rows], [row.images for row in rows], self.tokenizer
        )
        self._publisher = Publisher(self.args, self.actor_model_group, self._driver, trials)
        step = self._global_step
        self._evaluations = Evaluations(self._samples_generator, self._generate_kwargs, step)
        loggers = (self.tensorboard_logger, self.wandb_logger)
        self._log = RunLog(self._run, *loggers, scheduler.batches, batches, recorder)
        self.tensorboard_logger = self._log.tensorboard

    def _recorder(self) -> Recorder | None:
        """With --run.record."""
        if not self.args.run.record:
            return None
        origin = Origin(
            "run",
            self.args.actor.model_name_or_path,
            tokenizer_digest(self.tokenizer),
            self.args.rollout.temperature,
        )
        return Recorder(Path(self.args.run.dir), origin, self._global_step)

    async def _run_to_the_end(self, scheduler: Scheduler) -> None:
        try:
            await self._driver.run(self._engines())
            check_given_up(scheduler.ledger.account())
        except BaseException as reason:
            try:
                if isinstance(reason, StoppedError | PolicyError) and scheduler.batches:
                    await self._save_models()  # there may be no checkpoint of what was trained
            finally:
                for error in self._log.close(scheduler.ledger.account()):
                    # Which must not hide the reason.
                    logger.error("a record of the run could not be ended", exc_info=error)
            raise
        for error in self._log.close(scheduler.ledger.account()):
            raise error

    async def _save_models(self) -> None:
        """The models that OpenRLHF writes where a run ends well."""
        saving = self.actor_model_group.async_save_model()
        if self.critic_model_group is not None and self.args.critic.save_value_network:
            saving += self.critic_model_group.async_save_model()
        await asyncio.gather(*saving)

    def _shares_gpus(self) -> bool:
        """Whether engines and trainer lie on the same GPUs, and weights are handed over in place:
        OpenRLHF's `use_cuda_ipc`."""
        train = self.args.train
        nccl = self.args.vllm.sync_backend == "nccl"
        return bool(nccl and train.colocate_all and not train.async_enable)

    def _why_no_restart(self) -> str:
        return (
            "an engine that shares its GPU with the trainer cannot be started again beside it "
            "(engines on GPUs of their own can: leave out --train.colocate_all). "
            f"{self._state.advice()}"
        )

    # -- the scheduler's Trainer

    def train(self, step: TrainStep) -> None:
        """See `scheduling.Trainer`."""
        self._driver.spawn(self._train(step))

    def publish(self, version: int, engines: Sequence[str]) -> None:
        """See `scheduling.Trainer`."""
        self._driver.spawn(self._publish(version, engines))

    async def _train(self, step: TrainStep) -> None:
        async with self._weights:
            if self.args.vllm.enable_sleep and step.first == 0:
                await self._driver.ask(self._driver.living, "sleep")
            status = await asyncio.to_thread(self._train_step, step)
        # Of all samples, LOSS/ess_ratio; those by lag are LOSS/lag_L/ess_ratio.
        ess = [value for name, value in status.items() if name.split("/")[1:] == ["ess_ratio"]]
        self._driver.scheduler.on_trained(ess[0] if ess else None)
        self._driver.wake()

    def _train_step(self, step: TrainStep) -> dict[str, float]:
        if step.first == 0:
            self._make_experience(step.batch)
        updates = self._updates[step.first : step.last]
        pending = []
        for group in (self.actor_model_group, self.critic_model_group):
            if group is not None:
                ranks = len(group._actor_handlers) // group.duplicate_actors
                shares = [Share(items) for items in mini_batches.for_ranks(updates, ranks)]
                pending += group.async_run_method_batch("append", experience=shares)
        ray.get(pending)
        started = time.monotonic()
        status = self.ppo_train(self._global_step)
        measured = status.pop(UPDATES, [])
        seconds = time.monotonic() - started
        self._log.add_step(self._global_step + 1, step, status, measured, seconds)
        return status

    def _make_experience(self, batch: Batch) -> None:
        self._updates = []  # what the last batch's experts take in the object store is free
        started, size = time.monotonic(), self._config.groups_per_update
        samples = mini_batches.to_samples(batch, size)
        experts = mini_batches.routed_experts(batch, size) if self._replays else None
        if experts and (unknown := sum(rows is None for rows in experts)):
            logger.warning(
                "%d of %d samples take experts of the router's choice: they were buffered by a run "
                "without --moe.routing_replay, or are an agent's, which sampled nothing",
                *(unknown, len(experts)),
            )
        turns = mini_batches.turns(batch, size) if self._by_turn else None
        self.experience_maker.routed_experts, self.experience_maker.turns = experts, turns
        experiences = self.experience_maker.make_experience_batch(samples)
        lags, updates = mini_batches.lags(batch, size), len(batch.mini_batches)
        states = self.experience_maker.teacher_states
        self._updates = mini_batches.to_items(experiences, lags, updates, experts, turns, states)
        trained = [item for update in self._updates for item in update if item.action_mask.any()]
        first = trained[0]
        text = self.tokenizer.decode(first.sequences, skip_special_tokens=True)
        metrics: dict[str, Any] = mini_batches.rollout_statistics(trained)
        metrics |= mini_batches.unscored_logs(batch)
        if self._replays:
            metrics["routing/bytes"] = float(mini_batches.routed_bytes(batch))
        metrics["generated_samples"] = [text, float(first.info["reward"])]
        self._log.begin_batch(metrics, time.monotonic() - started)

    async def _publish(self, version: int, names: Sequence[str]) -> None:
        for engine in await self._give_weights(version, names):
            if not engine.dead:
                self._driver.scheduler.on_engine_updated(engine.name, version)
        self._driver.wake()

    async def _give_weights(self, version: int, names: Sequence[str]) -> list[RayEngine]:
        """To the rollout actors of these names, and evaluate them where it is time to.

        Returns:
            Those that have them; some may have died since.
        """
        async with self._weights:
            engines = await self._publisher.publish(version, names)
            if engines and len(engines) == len(self._driver.living):
                step = self._global_step
                metrics = await self._evaluations.run_if_due(step, engines, self._driver)
                if metrics is not None:
                    await asyncio.to_thread(self._log_evaluation, step, metrics)
        return engines

    def _limits(self) -> SampleLimits:
        """Of each sample. An agent's reward is part of its environment."""
        seconds = self._options.episode_timeout
        if not self.args.train.agent_func_path:
            return SampleLimits(seconds, self._options.reward_timeout)
        agent = config.read(AgentOptions, flatten(self.args))
        return SampleLimits(seconds, agent.tool_timeout, "tool_timeout", agent.max_turns)

    def _sampling(self) -> SamplingParams:
        options = self._generate_kwargs
        return SamplingParams(
            temperature=options["temperature"],
            top_p=options["top_p"],
            max_tokens=options["max_new_tokens"],
            min_tokens=options["min_new_tokens"],
            skip_special_tokens=False,
            logprobs=0,  # of the sampled token alone
        )

    def _accept(self, group: Group) -> bool:
        """Dynamic filtering: the mean score of a group's scored samples lies inside OpenRLHF's
        range."""
        scores = [
            float(rollout.experience.scores[0])
            for rollout, reward in zip(group.payloads, group.rewards, strict=True)
            if reward is not None and rollout.experience.scores is not None
        ]
        low, high = self.args.algo.dynamic_filtering_range
        return not scores or low < sum(scores) / len(scores) < high

    # -- after a batch

    def _on_batch(self, report: BatchReport) -> None:
        """Everything that needs the scheduler as it is now; the slow part is done beside it."""
        self._global_step += 1
        metrics = self._log.end_batch(report, self._publisher.drain())
        if "kl" in metrics:
            self.kl_ctl.update(metrics["kl"], report.samples)
        snapshot = self._state.snapshot(self._global_step, self._driver.scheduler)
        saving = self._log_and_save(self._global_step, metrics, snapshot)
        self._driver.spawn(saving, awaited=True)

    async def _log_and_save(
        self, step: int, metrics: dict[str, Any], snapshot: Snapshot | None
    ) -> None:
        """Without a snapshot, no checkpoint is due."""
        async with self._weights:  # first come, first served: before the next update
            logger.info("Global step %d: %s", step, metrics)
            states = snapshot.states if snapshot else {}
            log = functools.partial(self.save_logs_and_checkpoints, step, metrics, states)
            if snapshot is None:
                await asyncio.to_thread(log)
            else:
                await asyncio.to_thread(self._log.settle)
                await asyncio.to_thread(self._state.save, snapshot, log)

    def _log_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """And save the models, where they are the best so far."""
        self._log.evaluated(step, metrics)
        with self._state.saving_best(step):
            self.save_best_checkpoint(metrics, step, {"global_step": step})
