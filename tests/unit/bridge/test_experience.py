"""Our experience maker against OpenRLHF's, on the same batches, and its dealings with the ranks."""

import copy
import dataclasses
import json
import logging
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from openrlhf.trainer.ppo_utils import experience_maker
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ray import launcher

from vespo_openrlhf.bridge.rules.sizes import GROUP_ESTIMATORS
from vespo_openrlhf.bridge.samples.experience import ExperienceMaker

MAKER = RemoteExperienceMaker
ESTIMATORS = ("group_norm", "rloo", "dr_grpo", "reinforce_baseline", "reinforce", "gae")
N = 4


def arguments(**changes: Any) -> SimpleNamespace:
    settings = {
        "estimator": "group_norm",
        "gamma": 1.0,
        "no_std_norm": False,
        "n": N,
        "overlong": None,
        "coefficient": None,
        "micro_batch_size": 3,
    } | changes
    advantage = SimpleNamespace(
        estimator=settings["estimator"],
        gamma=settings["gamma"],
        lambd=0.9,
        no_std_norm=settings["no_std_norm"],
    )
    return SimpleNamespace(
        algo=SimpleNamespace(advantage=advantage, kl=SimpleNamespace(use_loss=False)),
        rollout=SimpleNamespace(
            n_samples_per_prompt=settings["n"],
            max_new_tokens=6,
            micro_batch_size=settings["micro_batch_size"],
        ),
        reward=SimpleNamespace(
            clip_range=(-10, 10),
            overlong_buffer_len=settings["overlong"],
            overlong_penalty_factor=0.3,
            stop_properly_penalty_coef=settings["coefficient"],
        ),
        train=SimpleNamespace(
            dynamic_batch_enable=False,
            colocate_all=False,
            colocate_actor_ref=False,
            colocate_critic_reward=False,
        ),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
        data=SimpleNamespace(max_len=16),
    )


def make(kind: type, args: SimpleNamespace, **groups: Any) -> Any:
    models: dict[str, Any] = dict.fromkeys(("actor", "critic", "reward", "initial")) | groups
    return kind(
        *(models[name] for name in ("actor", "critic", "reward", "initial")),
        SimpleNamespace(value=0.05),
        SimpleNamespace(args=args),
        SimpleNamespace(pad_token_id=0),
    )


def samples(rewards: list[float]) -> list[Experience]:
    """Of different lengths, some truncated; NaN for one without action tokens."""
    made = []
    for index, reward in enumerate(rewards):
        torch.manual_seed(index)
        length = 2 + 3 * index % 7
        mask = torch.zeros(1, length + 1, dtype=torch.long)
        mask[:, 1:] = 1
        made.append(
            Experience(
                sequences=torch.arange(length + 2)[None],
                attention_mask=torch.ones(1, length + 2, dtype=torch.long),
                action_mask=mask if reward == reward else torch.zeros_like(mask),
                rollout_log_probs=torch.rand(1, length + 1),
                rewards=torch.tensor([reward]),
                response_length=torch.tensor([length]),
                truncated=torch.tensor([index % 3 == 0]),
                total_length=torch.tensor([length + 2.0]),
                values=torch.rand(1, length + 1),
                kl=torch.rand(1, length + 1),
                info={"reward": torch.tensor([reward])},
            )
        )
    return made


def advantages(kind: type, args: SimpleNamespace, made: list[Experience]) -> list[Experience]:
    """What becomes of them, as OpenRLHF batches them, but in another order; by micro-batch."""
    maker = make(kind, args)
    batches = maker.split_rollout_samples(copy.deepcopy(made))
    done: list[Experience] = maker.compute_advantages_and_returns(batches[::-1])
    return done


@pytest.mark.parametrize("shaping", [{}, {"overlong": 2, "coefficient": 0.5}])
@pytest.mark.parametrize("options", [{}, {"no_std_norm": True}])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_where_all_count_it_is_openrlhfs(estimator: str, options: dict, shaping: dict) -> None:
    made = samples([1.0, 0.0, 0.0, 0.5, -1.0, 2.0, 0.0, 0.0])
    options = {"estimator": estimator} | options | shaping
    ours = advantages(ExperienceMaker, arguments(**options), made)
    theirs = advantages(RemoteExperienceMaker, arguments(**options), made)
    for one, other in zip(ours, theirs, strict=True):
        for field in dataclasses.fields(Experience):
            value, expected = getattr(one, field.name), getattr(other, field.name)
            if field.name == "info":
                assert value.keys() == expected.keys()
                for name in value:
                    torch.testing.assert_close(value[name], expected[name], rtol=1e-5, atol=1e-5)
            elif isinstance(value, torch.Tensor):
                mask = other.action_mask if value.dim() == 2 and "mask" not in field.name else 1
                if value.shape[-1] == other.action_mask.shape[-1]:
                    value, expected = value * mask, expected * mask
                torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, -3.3])
def test_a_group_of_equal_rewards_is_worth_nothing_and_the_rest_is_openrlhfs(
    estimator: str, reward: float
) -> None:
    """OpenRLHF's group_norm makes 59.6 of eight rewards of 0.7, and -7.45 of 0.1."""
    made = samples([reward] * 8 + [1.0, 0.0, 0.0, 0.5, 0.2, 0.7, 0.0, 0.0])
    for sample in made:
        sample.kl = torch.zeros_like(sample.kl)
    args = arguments(estimator=estimator, n=8)
    ours, theirs = advantages(ExperienceMaker, args, made), advantages(MAKER, args, made)
    for one, other in zip(ours, theirs, strict=True):
        for row, index in enumerate(one.index):
            mask = one.action_mask[row].bool()
            found, expected = one.advantages[row][mask], other.advantages[row][mask]
            if index < 8:
                assert torch.equal(found, torch.zeros_like(found))
                continue
            if estimator == "group_norm":  # 1e-6 beside the deviation, as published, for its 1e-9
                std = other.info["group_reward_std"][row]
                expected = expected * (std + 1e-9) / (std + 1e-6)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_with_a_kl_penalty_equal_rewards_leave_the_penalty() -> None:
    made = samples([0.7] * 4 + [1.0, 0.0, 0.0, 0.5])
    args = arguments(estimator="reinforce_baseline")
    for batch in advantages(ExperienceMaker, args, made):
        assert batch.advantages[batch.action_mask.bool()].all()


def test_the_benchmark_of_the_drivers_time_runs(capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[3] / "scripts" / "bench_experience.py"
    run = runpy.run_path(str(script))
    sizes = {"RESPONSES": 32, "TOKENS": 640, "PROMPT": 3}
    run["main"].__globals__.update(sizes)
    logged = logging.root.manager.disable
    try:
        run["main"](["--json", "--repeats", "1", "--estimator", "dr_grpo", "--micro-batch", "4"])
    finally:
        logging.disable(logged)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["seconds"].keys() == {"openrlhf", "ours"}
    assert printed["largest_difference"] < 1e-6


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_discounted_returns_are_openrlhfs_too(gamma: float) -> None:
    made = samples([1.0, 0.0, 0.0, 0.5])
    args = arguments(estimator="reinforce", gamma=gamma)
    for one, other in zip(
        advantages(ExperienceMaker, args, made),
        advantages(RemoteExperienceMaker, args, made),
        strict=True,
    ):
        torch.testing.assert_close(one.returns, other.returns)


def test_flash_reinforce_is_openrlhfs() -> None:
    made = samples([1.0, 0.0, 0.0, 0.5])
    args = arguments(estimator="flash_reinforce", n=1)
    for one, other in zip(
        advantages(ExperienceMaker, args, made),
        advantages(RemoteExperienceMaker, args, made),
        strict=True,
    ):
        torch.testing.assert_close(one.advantages, other.advantages)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "flash_reinforce"])
def test_those_that_count_are_the_whole_batch(estimator: str) -> None:
    """With four of eight samples unscored, as with groups of those four alone."""
    nan = torch.nan
    first, second = (
        [1.0, nan, 0.0, nan, 1.0, nan, 0.5, nan],
        [0.0, nan, nan, 1.0, nan, nan, 2.0, 3.0],
    )
    mixed = samples(first + second)
    alone = [sample for sample in mixed if sample.action_mask.any()]
    options = {"estimator": estimator, "coefficient": -0.5}
    many = advantages(ExperienceMaker, arguments(n=8, **options), mixed)
    few = advantages(ExperienceMaker, arguments(n=4, **options), alone)
    found, expected = {}, {}
    for rows, batches in ((found, many), (expected, few)):
        for batch in batches:
            for row, mask in enumerate(batch.action_mask.bool()):
                if mask.any():
                    # By the first token's rollout log-prob, which is each sample's own.
                    key = float(batch.rollout_log_probs[row][0])
                    rows[key] = [batch.advantages[row][mask], batch.returns[row][mask]]
                    rows[key].append(batch.info["group_reward_std"][row])
                else:
                    assert not batch.advantages[row].any()
                    assert batch.returns[row].isfinite().all()
    assert found.keys() == expected.keys()
    assert len(found) == 8
    for key, values in found.items():
        for value, other in zip(values, expected[key], strict=True):
            torch.testing.assert_close(value, other)


# --- forward passes over ranks ------------------------------------------------------------


class Ranks:
    """A group of model actors in this process: Ray's part is played by plain calls.

    `async_run_method_batch` is OpenRLHF's own. Each actor answers a batch with the sequences' first
    token over and over, and writes down how many it was given.
    """

    def __init__(self, ranks: int, copies: int = 1) -> None:
        self.duplicate_actors = copies
        self.calls = [0] * (ranks * copies)
        self._actor_handlers = [self._handler(rank) for rank in range(ranks * copies)]

    def _handler(self, rank: int) -> SimpleNamespace:
        def execute(method: str, chunk: dict, start: int, end: int) -> list[torch.Tensor]:
            assert method == "forward"
            batches = chunk["sequences"][start:end]
            self.calls[rank] += len(batches)
            return [batch[:, :1].expand(-1, batch.shape[1] - 1).float() for batch in batches]

        return SimpleNamespace(execute_batch=SimpleNamespace(remote=execute))

    async_run_method_batch = launcher.RayActorGroup.async_run_method_batch


@pytest.fixture
def plain_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (launcher, experience_maker):
        monkeypatch.setattr(module.ray, "put", lambda value: value)
        monkeypatch.setattr(module.ray, "get", lambda value: value)


@pytest.mark.parametrize("count", [1, 3, 6, 7, 12, 13])
@pytest.mark.parametrize(("ranks", "copies"), [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2)])
def test_every_rank_gets_as_many_batches_and_nothing_is_lost(
    plain_calls: None, count: int, ranks: int, copies: int
) -> None:
    args = arguments()
    args.ds.ring_attn_size = copies
    args.algo.kl.estimator = "k1"
    actor, critic, reference = (Ranks(ranks, copies) for _ in range(3))
    maker = make(ExperienceMaker, args, actor=actor, critic=critic, initial=reference)
    made = samples([1.0] * count)
    for first, sample in enumerate(made):
        sample.sequences[0, 0] = first + 1
    experiences = maker.make_experience(maker.split_rollout_samples(made))
    batches = -(-count // 3)
    for model in (actor, critic, reference):
        assert model.calls == [-(-batches // ranks)] * (ranks * copies)
    assert len(experiences) == batches
    for values in ("action_log_probs", "values"):
        answers = torch.cat([getattr(experience, values)[:, 0] for experience in experiences])
        assert answers.tolist() == list(range(1, count + 1))


def credited(estimator: str, made: list[Experience], turns: list, **options: Any) -> dict[int, Any]:
    """Advantages of each sample's action tokens, by its index, with these turns."""
    args = arguments(estimator=estimator, **options)
    maker = make(ExperienceMaker, args)
    maker.turns = turns
    batches = maker.split_rollout_samples(copy.deepcopy(made))
    done = maker.compute_advantages_and_returns(batches[::-1])
    return {
        index: one.advantages[row][one.action_mask[row].bool()]
        for one in done
        for row, index in enumerate(one.index)
    }


def in_turns(made: list[Experience], rewards: list[list[float]]) -> list:
    """Turns side by side: a token each, the rest for the last. The first action is the token 2."""
    turns = []
    for sample, told in zip(made, rewards, strict=True):
        ends = [*range(3, 2 + len(told)), sample.sequences.shape[1]]
        turns.append(tuple(zip([2, *ends[:-1]], ends, told, strict=True)))
    return turns


def test_each_turn_has_its_advantage_on_its_own_tokens() -> None:
    """dr_grpo. G_1: 1, 0.5, 0, NaN (it does not count); G_2 of the two in the middle: 0.5, 0."""
    made = samples([1.0, 0.5, 0.0, torch.nan])
    for sample in made:
        sample.kl = torch.zeros_like(sample.kl)
    turns = in_turns(made, [[1.0], [0.0, 0.5], [0.0, 0.0], [torch.nan]])
    found = credited("dr_grpo", made, turns)
    assert found[0].unique().tolist() == [0.5]
    assert found[1].tolist() == pytest.approx([0.0] + [0.25] * 4)
    assert found[2].tolist() == pytest.approx([-0.5] + [-0.25] * (len(found[2]) - 1))
    assert len(found[3]) == 0


def test_a_turns_advantage_is_clipped_as_an_episodes_is() -> None:
    """To 10 on either side, as upstream does: first turns at 50 and -50, second ones at 100."""
    made = samples([100.0, 0.0, 0.0, 100.0])
    for sample in made:
        sample.kl = torch.zeros_like(sample.kl)
    turns = in_turns(made, [[-100.0, 200.0], [0.0, 0.0], [0.0], [100.0]])
    found = credited("dr_grpo", made, turns)
    assert {index: each.unique().tolist() for index, each in found.items()} == {
        0: [10.0],
        1: [-10.0],
        2: [-10.0],
        3: [10.0],
    }


def test_a_length_penalty_is_the_last_turns() -> None:
    """Sample 0 is truncated: half its reward of 1 is gone, of a first turn of 0.25 and a second of
    0.75. G_2 is then 0.25, and 0.25 of sample 1."""
    made = samples([1.0, 0.5, 0.0, 0.0])
    made[3].truncated[:] = False
    for sample in made:
        sample.kl = torch.zeros_like(sample.kl)
    turns = in_turns(made, [[0.25, 0.75], [0.25, 0.25], [0.0], [0.0]])
    found = credited("dr_grpo", made, turns, coefficient=0.5)
    assert found[0].tolist() == pytest.approx([0.25, 0.0])
    assert found[1].tolist() == pytest.approx([0.25] + [0.0] * 4)


@pytest.mark.parametrize("shaping", [{}, {"overlong": 2, "coefficient": 0.5}])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("turns", ["one", "unknown", "none"])
def test_with_one_turn_or_an_unknown_one_advantages_are_the_episodes(
    estimator: str, shaping: dict, turns: str
) -> None:
    """To the bit, with a KL penalty on every token."""
    rewards = [0.1, 0.7, 0.3, torch.nan, -1.0, 2.0, 0.0, 0.0]
    made = samples(rewards)
    told = {
        "one": in_turns(made, [[reward] for reward in rewards]),
        "unknown": in_turns(made, [[torch.nan] * 2] * len(made)),
        "none": [()] * len(made),
    }[turns]
    by_turn = credited(estimator, made, told, **shaping)
    whole = advantages(ExperienceMaker, arguments(estimator=estimator, **shaping), made)
    for one in whole:
        for row, index in enumerate(one.index):
            expected = one.advantages[row][one.action_mask[row].bool()]
            assert torch.equal(by_turn[index], expected)
