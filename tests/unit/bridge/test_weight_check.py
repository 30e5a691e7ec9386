"""What is asked of an engine that has been given weights, and what is made of its answer."""

import asyncio
import math
from types import SimpleNamespace

import pytest
from vllm.logprobs import Logprob

from vespo_openrlhf.bridge.actor import PolicyActor
from vespo_openrlhf.bridge.driver import Driver
from vespo_openrlhf.bridge.engine import VersionedRollout
from vespo_openrlhf.bridge.weights import check as weight_check
from vespo_openrlhf.bridge.weights.check import Trial
from vespo_openrlhf.bridge.weights.publishing import Publisher


class Tokenizer:
    """A token per character."""

    eos_token_id = 0
    pad_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens  # the chat template has put them in
        return {"input_ids": [ord(letter) for letter in text]}


def test_trials_begin_as_the_first_prompts_do() -> None:
    prompts = ["picture", "", "a" * 1000, "bc", "d", "e", "f"]
    images = [["file.png"], None, None, [], None, None, None]
    tokens = weight_check.trial_prompts(prompts, images, Tokenizer())
    assert tokens == [[97] * 64, [98, 99], [100]]
    assert weight_check.trial_prompts(["picture"], [["file.png"]], Tokenizer()) == [[0]]


def test_the_difference_is_that_of_the_sampled_tokens() -> None:
    trials = [Trial([5, 6, 7], [-1.0]), Trial([5, 6, 7, 8], [-2.0, -3.0])]
    scored = [[-9.0, -1.5], [-9.0, -2.0, -3.1]]
    assert weight_check.difference(trials, scored) == pytest.approx(0.2)
    scored[0][-1] = math.nan
    assert math.isnan(weight_check.difference(trials, scored))


def test_the_tolerance_suits_the_type_unless_one_is_asked_for() -> None:
    assert weight_check.tolerance(None, "fp32") == 1e-4
    assert weight_check.tolerance(None, "bf16") == 0.1
    assert weight_check.tolerance(0.5, "fp32") == 0.5
    assert weight_check.tolerance(0.0, "bf16") == 0


def test_the_trainer_scores_every_token_but_the_first_at_temperature_1() -> None:
    """A stand-in for the model: the log-prob of a token is its id / 100, by the temperature."""
    seen: dict[str, object] = {}

    class Actor(PolicyActor):
        def __init__(self) -> None:
            self.tokenizer = Tokenizer()
            self.actor = SimpleNamespace(temperature=0.7)

        def forward(self, sequences, action_mask, attention_mask, routed_experts):
            seen["mask"] = attention_mask.tolist()
            return sequences[:, 1:] / 100 / self.actor.temperature * action_mask

    actor = Actor()
    first, second = actor.score([[1, 2, 3], [4, 5]])
    assert first == pytest.approx([0.02, 0.03])
    assert second == pytest.approx([0.05])
    assert seen["mask"] == [[1, 1, 1], [1, 1, 0]]
    assert actor.actor.temperature == 0.7


def test_an_engine_tries_out_beside_its_accounts() -> None:
    """A stand-in for vLLM, which notes what it is asked."""
    asked = []

    class LLM:
        async def generate(self, prompt, sampling, request_id):
            asked.append((sampling.temperature, sampling.seed, sampling.logprobs))
            tokens = [prompt["prompt_token_ids"][-1] + 1, 9]
            log_probs = [{token: Logprob(-token / 10), 99: Logprob(0.0)} for token in tokens]
            yield SimpleNamespace(
                outputs=[SimpleNamespace(token_ids=tokens, logprobs=log_probs, routed_experts=None)]
            )

    engine = VersionedRollout.__new__(VersionedRollout)
    engine.llm = LLM()
    engine._generating = 0
    trials = asyncio.run(engine.try_out([[1, 2], [3]]))
    assert trials == [Trial([1, 2, 3, 9], [-0.3, -0.9]), Trial([3, 4, 9], [-0.4, -0.9])]
    assert asked == [(1.0, 0, 0)] * 2  # seeded: no other sample changes
    assert engine._generating == 0


class Engine:
    """An engine on which the trainer finds its own log-probs, apart by `gap`."""

    def __init__(self, name: str, gap: float) -> None:
        self.name, self.dead, self.tries = name, False, 0
        self.actor = SimpleNamespace(try_out=SimpleNamespace(remote=self._try_out))
        self._gap = gap

    async def _try_out(self, prompts: list[list[int]]) -> list[Trial]:
        self.tries += 1
        return [Trial([*prompt, 7], [-1.0 - self._gap]) for prompt in prompts]


def check(engines: list[Engine], version: int, publisher: Publisher) -> list[Engine]:
    return asyncio.run(publisher._check(engines, version))


@pytest.fixture
def args() -> SimpleNamespace:
    return SimpleNamespace(
        vllm=SimpleNamespace(weight_tolerance=None), ds=SimpleNamespace(param_dtype="fp32")
    )


@pytest.fixture
def publisher(args: SimpleNamespace) -> Publisher:
    """Of two ranks that score -1."""

    async def score(sequences: list[list[int]]) -> list[list[float]]:
        return [[-1.0] * (len(sequence) - 1) for sequence in sequences]

    class Group:
        def async_run_method(self, name: str, sequences: list[list[int]], routed: object) -> list:
            assert name == "score"
            return [score(sequences), score(sequences)]

    driver = SimpleNamespace(
        engine_failed=lambda engine, error: setattr(engine, "dead", True), _engine_timeout=30.0
    )
    driver._answer = lambda call: Driver._answer(driver, call)
    driver.answers = lambda *args: Driver.answers(driver, *args)
    return Publisher(args, Group(), driver, [[1, 2], [3]])


def test_each_life_of_an_engine_is_checked_on_its_first_trained_weights(publisher) -> None:
    engine, newcomer = Engine("engine-0", 1e-6), Engine("engine-0.1", 1e-6)
    for version in (0, 4, 8):
        assert check([engine], version, publisher) == [engine]
    assert check([newcomer], 8, publisher) == [newcomer]
    assert (engine.tries, newcomer.tries) == (1, 1)


@pytest.mark.parametrize("gap", [0.01, math.nan])
def test_an_engine_that_is_apart_stops_the_run(publisher, gap: float) -> None:
    with pytest.raises(RuntimeError, match=r"engine-1 does not sample .* version 4, .*experts"):
        check([Engine("engine-0", 0.0), Engine("engine-1", gap)], 4, publisher)


def test_it_may_be_meant(publisher, args) -> None:
    args.vllm.weight_tolerance = 0.02
    assert check([Engine("engine-0", 0.01)], 4, publisher)
    args.vllm.weight_tolerance = 0
    (engine,) = check([Engine("engine-1", 10.0)], 4, publisher)
    assert not engine.tries


def test_an_engine_that_dies_when_it_is_asked_is_given_up(publisher) -> None:
    async def die(prompts: object) -> None:
        raise RuntimeError("the actor died")

    lost, other = Engine("engine-0", 0.0), Engine("engine-1", 0.0)
    lost.actor = SimpleNamespace(try_out=SimpleNamespace(remote=die))
    assert check([lost, other], 4, publisher) == [other]
