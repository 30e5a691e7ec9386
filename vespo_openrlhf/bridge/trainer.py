"""OpenRLHF's trainer under our scheduler: synchronous and asynchronous are one loop.

Runs in a Ray worker: OpenRLHF's modules there are untouched until ours are imported, so what a
trainer looks up by name is put in place where it looks, not in the driver.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import ray
import torch
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.utils.logging_utils import init_logger
from openrlhf.utils.utils import get_tokenizer
from tqdm import tqdm
from vllm import SamplingParams

from vespo_openrlhf import config
from vespo_openrlhf.bridge import collector, evaluation, mini_batches, records, weight_check
from vespo_openrlhf.bridge.checkpoints import Checkpoints
from vespo_openrlhf.bridge.driver import Driver, PromptRow, RayEngine
from vespo_openrlhf.bridge.events import LostEnginesError, RolloutSettings, StoppedError
from vespo_openrlhf.bridge.experience import ExperienceMaker
from vespo_openrlhf.bridge.loss import skips_old_log_probs
from vespo_openrlhf.bridge.metrics_file import MetricsFile
from vespo_openrlhf.bridge.prompts import prompt_ledger, settle_lengths
from vespo_openrlhf.bridge.run_folder import (
    METRICS_FILE,
    PROMPTS_FILE,
    SAMPLES_FILE,
    UPDATES_FILE,
    RunFolder,
)
from vespo_openrlhf.bridge.settings import flatten, scheduler_config
from vespo_openrlhf.bridge.status import Statuses
from vespo_openrlhf.bridge.update_log import UpdateLog
from vespo_openrlhf.bridge.update_metrics import UPDATES
from vespo_openrlhf.bridge.weights import Sent
from vespo_openrlhf.bridge.wire import Share
from vespo_openrlhf.files import write_text
from vespo_openrlhf.scheduling import BatchReport, Group, Scheduler, TrainStep

# The share of a run's prompts that may be abandoned.
MOST_GIVEN_UP = 0.1

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
        # OpenRLHF's -1 for never, as its own trainer's fit rewrites it.
        if args.eval.steps == -1:
            args.eval.steps = math.inf
        if args.ckpt.save_steps == -1:
            args.ckpt.save_steps = math.inf
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
        self.experience_maker = ExperienceMaker(
            *(actor_model_group, critic_model_group, reward_model_group, reference_model_group),
            *(self.kl_ctl, strategy, tokenizer),
            recomputes=not skips_old_log_probs(flags),
        )
        self._config = scheduler_config(flags)
        self._options = config.rollout_options(flags)
        # OpenRLHF asks vLLM for at least one token, and vLLM then takes the end of sequence out
        # of the first token's distribution: log W would be off by log(1 - p(end)) on every
        # sample. A response that ends at once still holds its end token.
        self._generate_kwargs = {"min_new_tokens": 0, **generate_kwargs}
        prompts, self.eval_dataloader, _ = ppo_trainer.prepare_datasets(strategy, tokenizer)
        self._prompts = prompts.dataset
        settle_lengths(self._prompts, tokenizer, flags)
        self._trial_prompts = weight_check.trial_prompts(
            self._prompts.prompts, self._prompts.images, tokenizer
        )
        self._checked: set[str] = set()  # engines by name: each life once
        self._samples_generator = SamplesGenerator(
            strategy, prompts, self.eval_dataloader, tokenizer, vllm_engines
        )
        self._rollouts = records.BufferedRollouts(Path(args.ckpt.path))
        self._checkpoints = Checkpoints(Path(args.ckpt.path))
        self._run = RunFolder(Path(args.run.dir)) if args.run.dir is not None else None
        self._driver: Driver
        self._update_log: UpdateLog
        self._weights = asyncio.Lock()  # held while the actors' weights must not change
        self._global_step = 0
        self._last_eval = 0
        self._updates: list[list[Any]] = []
        self._statuses = Statuses()
        self._recomputed: list[tuple[int, float]] = []  # since the last batch; see begin_update
        self._sent: list[Sent] = []  # since the last batch
        self._step_started = time.monotonic()

    def get_max_steps(self) -> int:
        """Optimizer updates of the whole run, for the learning rate's schedule."""
        samples = len(self._prompts) * self._config.samples_per_prompt
        updates: int = samples // self.args.train.batch_size * self.args.train.num_episodes
        return updates

    async def fit(self) -> None:
        """Train. Raises what went wrong in any of the parts."""
        collector.settle()
        checkpoint = await asyncio.to_thread(self.init_checkpoint_states)
        self.restore_best_checkpoint_state(checkpoint)
        ledger = prompt_ledger(self._prompts, self.args)
        scheduler = Scheduler(
            self._config,
            ledger,
            self,
            clock=time.monotonic,
            accept=self._accept if self.args.algo.dynamic_filtering_enable else None,
            on_batch=self._on_batch,
        )
        self._resume(scheduler, checkpoint)
        self._open_logs()
        settings = RolloutSettings(
            self.tokenizer,
            self._sampling(),
            self.args.data.max_len,
            self._options.reward_timeout,
            self._config.lag.kv == "keep",
        )
        p = self._prompts
        rows = [PromptRow(*row) for row in zip(p.prompts, p.labels, p.images, strict=True)]
        self._driver = Driver(
            *(scheduler, rows, self.vllm_engines, settings, self._options.engine_timeout),
            no_restart=self._why_no_restart if self._shares_gpus() else None,
        )
        total = -(-len(rows) * ledger.epochs // self._config.prompts_per_batch)
        self._progress = tqdm(total=total, initial=scheduler.batches, desc="Rollout batches")
        if self.args.vllm.enable_sleep:
            await asyncio.gather(*(engine.wake_up.remote() for engine in self.vllm_engines))
        await self._run_to_the_end(scheduler)

    async def _run_to_the_end(self, scheduler: Scheduler) -> None:
        try:
            await self._driver.run()
            self._check_given_up(scheduler.ledger.account())
        except BaseException as reason:
            try:
                if isinstance(reason, StoppedError) and scheduler.batches:
                    await self._save_models()  # there may be no checkpoint of what was trained
            finally:
                for error in self._end_records(scheduler):  # which must not hide the reason
                    logger.error("a record of the run could not be ended", exc_info=error)
            raise
        for error in self._end_records(scheduler):
            raise error

    def _end_records(self, scheduler: Scheduler) -> list[Exception]:
        """What went wrong with any, such as a full disk; each is ended whatever befell another."""
        self._progress.close()
        write = functools.partial(self._write_prompts, scheduler.ledger.account())
        logs = [log.close for log in (self.wandb_logger, self.tensorboard_logger) if log]
        errors = []
        for end in (write, *logs):
            try:
                end()
            except Exception as error:
                errors.append(error)
        return errors

    async def _save_models(self) -> None:
        """The models that OpenRLHF writes where a run ends well."""
        saving = self.actor_model_group.async_save_model()
        if self.critic_model_group is not None and self.args.critic.save_value_network:
            saving += self.critic_model_group.async_save_model()
        await asyncio.gather(*saving)

    def _check_given_up(self, account: list[dict[str, Any]]) -> None:
        """A run that lost much of its data, or trained none of it, does not end as if all was well.

        Raises:
            StoppedError: it did.
        """
        trained = sum(epoch["trained"] for epoch in account)
        filtered, abandoned = (
            sum(len(epoch[outcome]) for epoch in account) for outcome in ("filtered", "abandoned")
        )
        if trained and abandoned <= MOST_GIVEN_UP * (trained + filtered + abandoned):
            return
        raise StoppedError(
            f"{abandoned} prompts were given up and {filtered} filtered out, {trained} trained. "
            f"More than {MOST_GIVEN_UP:.0%} given up, or nothing trained, is no run that ended "
            "well: the engines' logs hold the rewards' errors, and prompts.json the names"
        )

    def _shares_gpus(self) -> bool:
        """Whether engines and trainer lie on the same GPUs, and weights are handed over in place:
        OpenRLHF's `use_cuda_ipc`."""
        train = self.args.train
        nccl = self.args.vllm.sync_backend == "nccl"
        return bool(nccl and train.colocate_all and not train.async_enable)

    def _why_no_restart(self) -> str:
        text = (
            "an engine that shares its GPU with the trainer cannot be started again beside it "
            "(engines on GPUs of their own can: leave out --train.colocate_all). "
        )
        newest = self._checkpoints.newest()
        if newest is None:
            return text + "No checkpoint was saved so far; --ckpt.save_steps says when"
        return (
            f"{text}The last checkpoint is {newest} in {self.args.ckpt.path}: start the run again "
            "with --ckpt.load_enable to go on from it"
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
        batch, started = step.batch, time.monotonic()
        if step.first == 0:
            size = self._config.groups_per_update
            samples = mini_batches.to_samples(batch, size)
            experiences = self.experience_maker.make_experience_batch(samples)
            lags = mini_batches.lags(batch, size)
            self._updates = mini_batches.to_items(experiences, lags, len(batch.mini_batches))
            self._statuses = Statuses()
            self._statuses.once(self._rollout_statistics() | mini_batches.unscored_logs(batch))
            self._statuses.add({"timing/make_experience": time.monotonic() - started})
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
        updates = status.pop(UPDATES, [])
        self._statuses.add({"timing/ppo_train": time.monotonic() - started})
        self._statuses.mean(status, step.last - step.first)
        if self._run:
            records.append_lines(self._run.path / SAMPLES_FILE, records.stamps(step))
        first = batch.version + step.first
        self._update_log.log(first, self._global_step + 1, step.first, updates)
        return status

    async def _publish(self, version: int, names: Sequence[str]) -> None:
        async with self._weights:
            engines = self._driver.by_name(names)
            asleep = self.args.vllm.enable_sleep and version > 0
            if asleep:
                engines = await self._driver.ask(engines, "wake_up", tags=["weights"])
            else:
                begun = await self._driver.answers(engines, "begin_update")
                self._recomputed += itertools.chain.from_iterable(begun.values())
                engines = list(begun)
            if engines:
                group = self.actor_model_group.async_run_method(
                    "publish", [e.name for e in engines], [e.actor for e in engines]
                )
                try:
                    sent, *_ = await asyncio.gather(*group)  # all ranks took part in the same
                    self._sent.append(sent)
                except LostEnginesError as lost:
                    for engine in engines:
                        self._driver.engine_failed(engine, getattr(lost, "cause", lost))
                    engines = []
                except ray.exceptions.RayError:
                    await self._driver.ask(engines, "is_alive")  # where none may fail, it says so
                    raise
            if asleep:
                engines = await self._driver.ask(engines, "wake_up", tags=["kv_cache"])
            engines = await self._driver.ask(engines, "end_update", version)
            engines = await self._check_weights(engines, version)
            if engines and len(engines) == len(self._driver.living):
                await self._evaluate_if_due(engines)
        for engine in engines:
            if not engine.dead:
                self._driver.scheduler.on_engine_updated(engine.name, version)
        self._driver.wake()

    async def _check_weights(self, engines: list[RayEngine], version: int) -> list[RayEngine]:
        """Of each engine, what it makes of the first trained weights it is given; see
        `weight_check`.

        Raises:
            RuntimeError: an engine's log-probs are not the trainer's.
        """
        allowed = weight_check.tolerance(self.args.vllm.weight_tolerance, self.args.ds.param_dtype)
        due = [engine for engine in engines if version and engine.name not in self._checked]
        if not (due and allowed):
            return engines
        trials = await self._driver.answers(due, "try_out", self._trial_prompts)
        for engine, tried in trials.items():
            sequences = [trial.tokens for trial in tried]
            group = self.actor_model_group.async_run_method("score", sequences)
            gap = weight_check.difference(tried, (await asyncio.gather(*group))[0])
            if not gap <= allowed:
                raise RuntimeError(weight_check.complaint(engine.name, version, gap, allowed))
            self._checked.add(engine.name)
            logger.info(
                "%s samples from the policy of version %d: its log-probs are %.2g away from the "
                "trainer's, of %g allowed",
                *(engine.name, version, gap, allowed),
            )
        return [engine for engine in engines if not engine.dead]

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
        status = self._statuses.values() | report.scalars()
        if self._recomputed:
            tokens, seconds = zip(*self._recomputed, strict=True)
            status |= {"recompute/tokens": sum(tokens), "recompute/seconds": sum(seconds)}
            self._recomputed = []
        if self._sent:
            status |= {
                "weights/messages": fmean(sent.messages for sent in self._sent),
                "weights/seconds": fmean(sent.seconds for sent in self._sent),
            }
            self._sent = []
        now = time.monotonic()
        status["timing/step_total"] = now - self._step_started
        self._step_started = now
        if "kl" in status:
            self.kl_ctl.update(status["kl"], report.samples)
        self._progress.update()
        self._progress.set_postfix(
            reward=round(status["rollout/reward_mean"], 3),
            lag=round(report.lag.mean, 1),
            in_flight=report.in_flight,
        )
        states: dict[str, Any] = {}
        rollouts = None
        if self._global_step % self.args.ckpt.save_steps == 0:
            scheduler = self._driver.scheduler
            states = {
                "episode": 0,  # OpenRLHF's own account; ours is the ledger's
                "global_step": self._global_step,
                "total_consumed_prompts": scheduler.ledger.drawn,
                "scheduler": json.dumps(scheduler.state_dict()),
            }
            groups = scheduler.live.complete_groups()
            rollouts = {group.ticket: list(group.payloads) for group in groups}
        saving = self._log_and_save(self._global_step, status, states, rollouts)
        self._driver.spawn(saving, awaited=True)

    async def _log_and_save(
        self,
        step: int,
        status: dict[str, Any],
        states: dict[str, Any],
        rollouts: dict[int, list[Any]] | None,
    ) -> None:
        """Without `rollouts`, no checkpoint is due."""
        async with self._weights:  # first come, first served: before the next update
            logger.info("Global step %d: %s", step, status)
            if rollouts is None:
                await asyncio.to_thread(self.save_logs_and_checkpoints, step, status, states)
            else:
                await asyncio.to_thread(self._save, step, status, states, rollouts)

    def _save(
        self, step: int, status: dict[str, Any], states: dict[str, Any], rollouts: dict[int, Any]
    ) -> None:
        tag = f"global_step{step}"
        with self._checkpoints.saving(tag):
            self._rollouts.save(tag, rollouts)
            self.save_logs_and_checkpoints(step, status, states)
        self._checkpoints.rotate(self.args.ckpt.max_num, self.args.ckpt.max_mem)

    def _rollout_statistics(self) -> dict[str, Any]:
        """OpenRLHF's own, of the samples that are trained, with the rewards they are trained on."""
        items = [item for update in self._updates for item in update if item.action_mask.any()]
        rewards = torch.stack([item.info["reward"] for item in items])
        trained = SimpleNamespace(
            info={"reward": rewards[rewards.isfinite()]},
            response_length=torch.stack([item.response_length for item in items]),
            truncated=torch.stack([item.truncated for item in items]),
        )
        status: dict[str, Any] = self._compute_rollout_stats([trained])
        text = self.tokenizer.decode(items[0].sequences, skip_special_tokens=True)
        return status | {"generated_samples": [text, float(items[0].info["reward"])]}

    async def _evaluate_if_due(self, engines: list[RayEngine]) -> None:
        """At OpenRLHF's `--eval.steps`, on the weights that all engines have just been given."""
        step, every = self._global_step, self.args.eval.steps
        if self.eval_dataloader is None or step // every == self._last_eval // every:
            return
        self._last_eval = step
        count = self.args.eval.n_samples_per_prompt
        options = {"temperature": self.args.eval.temperature, "n_samples_per_prompt": count}
        self._samples_generator.vllm_engines = [engine.actor for engine in engines]
        try:
            await asyncio.to_thread(self._evaluate, step, self._generate_kwargs | options)
        except ray.exceptions.RayError as error:
            reason = "an engine died in it"
            if len(await self._driver.ask(engines, "is_alive")) == len(engines):
                if not isinstance(error, TimeoutError):
                    raise
                reason = str(getattr(error, "cause", error))
            logger.warning("no evaluation at global step %d: %s", step, reason)

    def _evaluate(self, step: int, options: dict[str, Any]) -> None:
        metrics = evaluation.evaluate(self._samples_generator, step, **options)
        for log in (self.wandb_logger, self.tensorboard_logger):
            if log:
                log.log_eval(step, metrics)
        logger.info("Evaluation at global step %d: %s", step, metrics)
        best = f"best_global_step{step}"
        with self._checkpoints.saving(best):
            self.save_best_checkpoint(metrics, step, {"global_step": step})
        self._checkpoints.keep_best(best)

    # -- start and end

    def _resume(self, scheduler: Scheduler, checkpoint: dict[str, Any]) -> None:
        # Nothing in it: killed before the first checkpoint was whole.
        self._global_step = self._last_eval = checkpoint.get("global_step", 0)
        if self._global_step:
            self._load(scheduler, checkpoint)
        # Also where the run was killed before its first checkpoint.
        if self._run:
            self._run.resume_at(self._global_step, scheduler.version)

    def _load(self, scheduler: Scheduler, checkpoint: dict[str, Any]) -> None:
        if "scheduler" not in checkpoint:
            raise ValueError(
                f"the checkpoint in {self.args.ckpt.path} has no scheduler state: it was written "
                "by OpenRLHF's own trainer or holds the best evaluation only. Start from its "
                "model with --actor.model_name_or_path, and another --ckpt.path"
            )
        rollouts = self._rollouts.load(f"global_step{self._global_step}")
        scheduler.load_state_dict(json.loads(checkpoint["scheduler"]), rollouts)
        logger.info(
            "resumed at global step %d, version %d, with %d buffered groups and %d prompts to "
            "send again",
            *(self._global_step, scheduler.version, scheduler.live.complete),
            len(scheduler.ledger.outstanding()) - scheduler.live.complete,
        )

    def _open_logs(self) -> None:
        path = self._run.path / UPDATES_FILE if self._run else None
        self._update_log = UpdateLog(path, self.tensorboard_logger, self.wandb_logger)
        if self._run:
            self.tensorboard_logger = MetricsFile(
                self._run.path / METRICS_FILE, inner=self.tensorboard_logger
            )

    def _write_prompts(self, account: list[dict[str, Any]]) -> None:
        """What became of every prompt, by name where it was not trained."""
        for epoch, outcomes in enumerate(account):
            logger.info(
                "epoch %d: %d prompts trained, %d filtered, %d abandoned",
                *(epoch, outcomes["trained"], len(outcomes["filtered"])),
                len(outcomes["abandoned"]),
            )
        if self._run:
            text = json.dumps(account, indent=2) + "\n"
            write_text(self._run.path / PROMPTS_FILE, text)
