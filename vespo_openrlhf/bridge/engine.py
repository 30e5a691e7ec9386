"""OpenRLHF's rollout engine actor, with a version on every token. Runs in Ray, one per engine.

Groups come in by `stream_group` and go out sample by sample, as each is generated and again as it
is scored, so that nothing waits for the slowest. The version of a token is told by counting: when
new weights come, generation is paused, and what each unfinished response has so far was sampled
with the old ones. That costs nothing between updates, where reading every token from the stream
costs the square of the length once log-probs are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from typing import Any

import psutil
import torch
from openrlhf.trainer.ray import vllm_engine
from openrlhf.utils.agent import SingleTurnAgentExecutor
from openrlhf.utils.vlm_utils import dedup_media_tokens
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.utils import random_uuid

from vespo_openrlhf.bridge import collector, vllm_plugin
from vespo_openrlhf.bridge.agents import EpisodeExecutor, execute, load_executor
from vespo_openrlhf.bridge.errors import LostSampleError, RefusedWeightsError, UntoldExpertsError
from vespo_openrlhf.bridge.events import (
    Away,
    Back,
    Event,
    Generated,
    RolloutConfig,
    Scored,
    told_at_once,
)
from vespo_openrlhf.bridge.samples.requests import Answered, RequestLog, check_experts
from vespo_openrlhf.bridge.samples.response import (
    RememberingTokenizer,
    mark_missing_log_probs,
    to_experience,
    to_rows,
    verdict,
)
from vespo_openrlhf.bridge.samples.sample import Sample
from vespo_openrlhf.bridge.samples.turns import note_turns, turns_of
from vespo_openrlhf.bridge.seams import plain_class
from vespo_openrlhf.bridge.weights.check import Trial, sample
from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.scheduling.lag import Spans, TokenVersions

# What vLLM has put out reaches the requests a moment later. When nothing has changed at as many
# looks, as many seconds apart, all has arrived.
_QUIET_LOOKS = 3
_LOOK_SECONDS = 0.005
_GATHER_SECONDS = 0.02

# By its name, so that vLLM's workers import it alone, and not this module with it.
_RECEIVER = "vespo_openrlhf.bridge.weights.receiver.WeightReceiver"

logger = logging.getLogger(__name__)


class VersionedRollout(plain_class(vllm_engine.RolloutRayActor)):  # type: ignore[misc]
    """`RolloutRayActor` that streams groups and knows which weights sampled what."""

    _tells_experts = False

    # Asynchronous, as upstream's is: Ray awaits it.
    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]
        os.environ[vllm_plugin.VARIABLE] = "1"
        kwargs["worker_extension_cls"] = (
            _RECEIVER  # takes buckets, where OpenRLHF's takes one weight
        )
        self._tells_experts = bool(kwargs.get("enable_return_routed_experts"))
        executor = load_executor(kwargs)
        await super().__init__(*args, **kwargs)
        if executor is not None:
            self.executor = executor
        self._loop = asyncio.get_running_loop()
        self._requests = RequestLog()
        self._versions = TokenVersions(0)
        self._groups: dict[int, list[asyncio.Task[None]]] = {}
        self._generating = 0
        self._paused = False
        self._config: RolloutConfig | None = None
        self._recomputed: list[tuple[int, float]] = []
        self._recomputing: asyncio.Task[None] | None = None
        collector.settle()

    def configure(self, config: RolloutConfig) -> None:
        """Take what all groups have in common; before the first, and by an engine that joins again:
        what it had before is nobody's any more."""
        for ticket in list(self._groups):
            self.abort_group(ticket)
        if self._is_single_turn or isinstance(self.executor, EpisodeExecutor):
            config.sampling.detokenize = False  # they make their text from the tokens
        if self._is_single_turn and not hasattr(config.tokenizer, "image_processor"):
            config = dataclasses.replace(config, tokenizer=RememberingTokenizer(config.tokenizer))
        self._config = config

    @property
    def version(self) -> int:
        """Of the weights that it samples with."""
        return self._versions.version

    @property
    def _is_single_turn(self) -> bool:
        """Whether a sample is one request of its own task; of anything else nobody knows."""
        return type(self.executor) is SingleTurnAgentExecutor

    def is_alive(self) -> None:
        """Answers where the engine can go on. Raises RuntimeError where its core has died, or where
        Ray has restarted the actor while nobody was waiting for it: it then has the weights of the
        start and is in no process group."""
        if self.llm.errored:
            raise RuntimeError("vLLM's engine core is gone")
        if self._config is None:
            raise RuntimeError("the engine was restarted while it had nothing to do")

    def progress(self) -> Hashable:
        """What changes while the engine works; None where nothing is asked of it, or it stands
        still for an update. Raises as `is_alive` does."""
        self.is_alive()
        return self._progress() if self._generating and not self._paused else None

    def give_up(self) -> None:
        """Kill the engine core, which hangs: it would outlive this actor, with its memory. Then
        end this actor, before it answers any other call."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(1)

    async def stream_group(
        self, ticket: int, prompt: str, label: str, images: Any, samples: int
    ) -> AsyncIterator[list[Event]]:
        """Generate and score `samples` responses to a prompt, each reported as it gets there, with
        whatever else happens within `_GATHER_SECONDS`: each item of a stream costs Ray as much as
        a dozen samples cost us."""
        assert self._config is not None, "configure comes first"
        events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(self._sample(index, prompt, label, images, events))
            for index in range(samples)
        ]
        self._groups[ticket] = tasks
        end = asyncio.gather(*tasks, return_exceptions=True)
        end.add_done_callback(lambda _: events.put_nowait(None))
        try:
            ended = False
            while not ended:
                news = [await events.get()]
                await asyncio.sleep(_GATHER_SECONDS)
                while not events.empty():
                    news.append(events.get_nowait())
                ended = news[-1] is None
                failed = next((event for event in news if isinstance(event, BaseException)), None)
                if told := told_at_once(event for event in news if isinstance(event, Event)):
                    yield told
                if failed is not None:
                    raise failed
        finally:
            self.abort_group(ticket)

    def abort_group(self, ticket: int) -> None:
        """Stop what is left of a group; a request that is cancelled leaves vLLM at once."""
        for task in self._groups.pop(ticket, []):
            task.cancel()

    async def _sample(
        self, index: int, prompt: str, label: str, images: Any, events: asyncio.Queue[Any]
    ) -> None:
        config, tell = self._config, events.put_nowait
        assert config is not None
        asked = {
            **{"prompt": prompt, "label": label, "images": images},
            **{"max_length": config.max_length, "hf_tokenizer": config.tokenizer},
            "sampling_params": config.sampling,
        }
        asks_itself = isinstance(self.executor, EpisodeExecutor)
        sample = Sample(self.version, config.limits, asks_itself=asks_itself)
        generated: list[Spans] = []

        def report(spans: Spans) -> None:
            generated.append(spans)
            tell(Generated(index, spans))

        if self._is_single_turn:
            sample.on_answered = report
        else:  # all is generated when the last turn ends
            sample.on_away = lambda: tell(Away(index))
            sample.on_back = lambda version: tell(Back(index, version))
        spans: Spans = ()
        scored = Scored(index, None, None, "failed")
        self._requests.begin(sample)
        try:
            response = await self._play(sample, asked)
            experience = to_experience(response, config.max_length)
            tokens, ranges = response["observation_tokens"], response["action_ranges"]
            sample.check_turns(len(ranges))  # some may have been nobody's requests
            origin = self._requests.claim(sample, tokens, ranges)
            spans = origin.spans
            rows = to_rows(origin.routed_experts)
            rollout = Rollout(experience, origin.request_ids, rows)
            if not self._is_single_turn:
                note_turns(experience, len(ranges), origin.unknown)
                rollout = dataclasses.replace(rollout, turns=turns_of(response))
            reward = verdict(experience, self.executor)
            scored = Scored(index, reward, rollout, "no_reward" if reward is None else "")
        except LostSampleError as error:
            logger.warning("a sample is given up, on %r: %s", prompt[:200], error)
            scored = Scored(index, None, None, error.reason)
        except Exception as error:
            # The engine is gone, and every other request with it; or it fails all the same way.
            if self.llm.errored or isinstance(error, UntoldExpertsError):
                tell(error)
                return
            # A prompt that is too long, an agent that fails: this sample's own trouble.
            logger.exception("a sample failed on %r", prompt[:200])
        finally:
            self._requests.end(sample)
        if not generated:
            report(spans or ((sample.version, 0),))
        tell(scored)

    async def _play(self, sample: Sample, asked: Mapping[str, Any]) -> Any:
        """What the executor answers. Raises as `Sample.play` does."""
        own = {"llm_engine": self, "sampling_params": asked["sampling_params"].clone()}
        return await sample.play(execute(self.executor, {**asked, **own}))

    async def generate(
        self, prompt_token_ids: Any, sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        """One response; its `token_versions` say which weights sampled what. In the place of
        OpenRLHF's, which takes every token from the stream to throw all but the last away.

        For any thread: an executor's own server may ask from its event loop, where vLLM's queues
        would not wake it.
        """
        if asyncio.get_running_loop() is not self._loop:
            work = self.generate(prompt_token_ids, sampling_params, multi_modal_data)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        await Sample.hold_ended()
        sampling_params.output_kind = RequestOutputKind.FINAL_ONLY
        prompt = self._prompt(prompt_token_ids, multi_modal_data)
        sample = Sample.current()
        self._generating += 1
        try:
            with contextlib.ExitStack() as on_engine:
                if sample is not None:
                    on_engine.enter_context(sample.on_engine(self.version))
                elif not isinstance(self.executor, EpisodeExecutor):
                    for one in self._requests.living:
                        on_engine.enter_context(one.perhaps_on_engine())
                # FINAL_ONLY makes it one output.
                stream = self.llm.generate(prompt, sampling_params, random_uuid())
                (output,) = [output async for output in stream]
        finally:
            self._generating -= 1
        completion = output.outputs[0]
        if self._tells_experts:
            check_experts(output)
        spans = self._versions.finish(output.request_id, len(completion.token_ids))
        mark_missing_log_probs(completion)
        tokens, asked = list(completion.token_ids), list(prompt_token_ids)
        request = Answered(
            *(output.request_id, asked, tokens, spans, completion.routed_experts, sample)
        )
        self._requests.add(request)
        if sample is not None:
            sample.on_answered(spans)
        return output

    def _prompt(self, tokens: list[int], media: Any) -> TokensPrompt:
        if media and self._mm_pad_token_ids:
            # vLLM expands each placeholder itself; OpenRLHF's tokens are expanded already.
            tokens = dedup_media_tokens(tokens, self._mm_pad_token_ids)
        prompt = TokensPrompt(prompt_token_ids=tokens)
        if media:
            prompt["multi_modal_data"] = media
        if self._keeps_kv:
            # Without it, a new prompt would use prefixes that older weights have cached.
            prompt["cache_salt"] = str(self.version)
        return prompt

    @property
    def _keeps_kv(self) -> bool:
        return self._config is not None and self._config.keep_kv

    async def generate_responses(self, num_samples: int = 1, **asked: Any) -> list[Any]:
        """OpenRLHF's, for an evaluation, which without a bound would wait for a reward that hangs.
        An episode that exceeds a limit, or fails, comes back empty, without a score: in training it
        costs its sample, and here it must not cost the run.

        Args:
            asked: what an executor is asked, by name.

        Raises:
            LostSampleError: a reward hangs.
        """
        assert self._config is not None, "configure comes first"
        limits = self._config.limits

        async def play() -> Any:
            sample = Sample(self.version, limits)
            try:
                return await self._play(sample, asked)
            except Exception as error:
                if self._is_single_turn or self.llm.errored:
                    raise
                logger.warning("an episode is given up: %r", error)
                return {"observation_tokens": [], "action_ranges": []}

        return await asyncio.gather(*(play() for _ in range(num_samples)))

    async def begin_update(self) -> list[tuple[int, float]]:
        """Stand still, with every request kept, until `end_update`. Raises as `is_alive` does.

        Returns:
            For each update before, as far as it was measured: tokens of unfinished responses, and
            the seconds until all of these went on, their KV cache computed again.
        """
        self.is_alive()
        self._paused = True
        if self._recomputing is not None:
            self._recomputing.cancel()  # what is not done by now is not measured
        await self.llm.pause_generation(mode="keep", clear_cache=not self._keeps_kv)
        quiet, before = 0, self._progress()
        while quiet < _QUIET_LOOKS:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._progress()
            quiet = quiet + 1 if now == before and self.llm.engine_core.outputs_queue.empty() else 0
            before = now
        measured, self._recomputed = self._recomputed, []
        return measured

    async def verify_weights(self) -> None:
        """Have all workers compare what comes next; see `WeightReceiver`."""
        await self._workers("verify_weights")

    async def receive_weights(
        self,
        dtype: torch.dtype,
        shapes: Sequence[tuple[str, tuple[int, ...]]],
        sums: Sequence[int] | None = None,
    ) -> None:
        """Have all workers take a bucket; see `WeightReceiver`.

        Raises:
            RefusedWeightsError: a worker has it and cannot load it, or finds it to be wrong.
        """
        await self._workers("receive_weights", dtype, shapes, sums)

    async def finish_weights(self) -> None:
        """Have all workers put in place what they kept of it. Raises as `receive_weights`."""
        await self._workers("finish_weights")

    async def _workers(self, method: str, *args: Any) -> None:
        for refusal in await self.llm.collective_rpc(method, args=args):
            if refusal:
                raise RefusedWeightsError(refusal)

    async def end_update(self, version: int) -> None:
        """Go on with the weights of `version`, which have arrived."""
        counts = self._token_counts()
        self._versions.update(version, counts)
        await self.resume_generation()
        self._paused = False
        if not self._keeps_kv and any(counts.values()):
            self._recomputing = asyncio.ensure_future(self._measure(counts))

    async def _measure(self, counts: dict[Hashable, int]) -> None:
        """How long until every unfinished response has a new token, after all of its own."""
        started = time.monotonic()
        waiting = {response: count for response, count in counts.items() if count}
        while waiting:
            await asyncio.sleep(_GATHER_SECONDS)
            now = self._token_counts()
            waiting = {r: count for r, count in waiting.items() if now.get(r) == count}
        self._recomputed.append((sum(counts.values()), time.monotonic() - started))

    async def try_out(self, prompts: Sequence[list[int]]) -> list[Trial]:
        """See `weights.check.sample`; apart from all groups and their accounts."""
        return await sample(self.llm, prompts)

    def _token_counts(self) -> dict[Hashable, int]:
        states = self.llm.output_processor.request_states.values()
        return {state.external_req_id: state.detokenizer.num_output_tokens() for state in states}

    def _progress(self) -> tuple[int, int, int]:
        counts = self._token_counts()
        return self._generating, len(counts), sum(counts.values())
