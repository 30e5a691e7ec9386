"""Advantages of groups, of which some samples may not count, by hand in float64."""

import pytest
import torch

from vespo_openrlhf.losses.advantages import (
    group_advantages,
    group_std,
    turn_advantages,
    whiten,
)

GROUPED = ("group_norm", "rloo", "dr_grpo", "reinforce_baseline")
ALL = (*GROUPED, "flash_reinforce", "reinforce", "gae")
# Four of eight have a reward; what stands at the others is not read.
REWARDS = [1.0, torch.nan, 0.0, torch.inf, 1.0, 5.0, 0.0, torch.nan]
COUNTED = [True, False, True, False, True, False, True, False]


def advantages(rewards: list, estimator: str, counted: list | None = None) -> list[float]:
    values = torch.tensor([rewards], dtype=torch.float64)
    mask = torch.tensor([counted]) if counted else torch.ones_like(values, dtype=torch.bool)
    return group_advantages(values, mask, estimator)[0].tolist()


@pytest.mark.parametrize(
    ("estimator", "rewards", "expected"),
    [
        ("group_norm", [1, 0, 0, 0], [0.75 / 0.500001, *[-0.25 / 0.500001] * 3]),
        ("rloo", [1, 0, 0, 0], [1, -1 / 3, -1 / 3, -1 / 3]),
        ("dr_grpo", [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        ("reinforce_baseline", [3, 1], [1, -1]),
        ("flash_reinforce", [3, 1], [1, -1]),
        ("reinforce", [3, 1], [3, 1]),
        ("gae", [3, 1], [3, 1]),
    ],
)
def test_by_hand(estimator: str, rewards: list, expected: list) -> None:
    assert advantages(rewards, estimator) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", ALL)
def test_those_that_count_are_the_whole_group(estimator: str) -> None:
    found = advantages(REWARDS, estimator, COUNTED)
    assert found[::2] == advantages([1.0, 0.0, 1.0, 0.0], estimator)
    assert found[1::2] == [0.0] * 4


def test_half_a_group_that_counts_is_not_blown_up() -> None:
    """With the mean in place of what is missing it was 1.32 for 0.87, and 0.57 for 0.67."""
    assert advantages(REWARDS, "group_norm", COUNTED)[0] == pytest.approx(0.866, abs=1e-3)
    assert advantages(REWARDS, "rloo", COUNTED)[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", GROUPED)
@pytest.mark.parametrize("reward", [0.1, 0.7, -3.3, 1e6])
def test_equal_rewards_are_worth_exactly_nothing(estimator: str, reward: float, dtype) -> None:
    for samples in (1, 2, 3, 8):
        rewards = torch.full((2, samples), reward, dtype=dtype)
        found = group_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool), estimator)
        assert found.dtype == dtype
        assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("estimator", ALL)
def test_a_group_of_which_nothing_counts(estimator: str) -> None:
    assert advantages([torch.nan, 1.0], estimator, [False, False]) == [0.0, 0.0]


def test_the_whole_batch_is_one_group_of_flash_reinforce() -> None:
    rewards, counted = torch.tensor([[4.0], [9.0], [0.0]]), torch.tensor([[True], [False], [True]])
    assert group_advantages(rewards, counted, "flash_reinforce").tolist() == [[2.0], [0.0], [-2.0]]


def test_the_standard_deviation_is_that_of_what_counts() -> None:
    rewards = torch.tensor([REWARDS, [1.0, 0.0] * 4])
    counted = torch.tensor([COUNTED, [True] + [False] * 7])
    std = group_std(rewards, counted)
    assert std[0].tolist() == pytest.approx([(1 / 3) ** 0.5] * 8)
    assert std[1].isnan().all()


def test_whitening_does_not_read_what_is_masked() -> None:
    values, mask = torch.tensor([1.0, torch.nan, 3.0]), torch.tensor([True, False, True])
    assert whiten(values, mask).tolist() == [-1.0, 0.0, 1.0]
    assert whiten(values + 4, mask, scale=False).tolist() == [-1.0, 0.0, 1.0]
    assert whiten(values, torch.zeros_like(mask)).tolist() == [0.0, 0.0, 0.0]


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="'grpo'"):
        advantages([1.0, 0.0], "grpo")


def by_turn(
    episodes: list[list[float]],
    estimator: str,
    counted: list[bool] | None = None,
    rewards: list[float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[list[float]]:
    """Of the turns that there are, in a group of episodes, each given by its turns' rewards."""
    most = max(1, *map(len, episodes))
    told = torch.full((1, len(episodes), most), 99.0, dtype=torch.float64)
    for row, each in zip(told[0], episodes, strict=True):
        row[: len(each)] = torch.tensor(each)
    taken = torch.arange(most) < torch.tensor([[len(e)] for e in episodes])
    whole = torch.tensor([rewards or [sum(e) for e in episodes]], dtype=dtype)
    mask = torch.tensor([counted or [True] * len(episodes)])
    found = turn_advantages(whole, told, taken[None], mask, estimator)
    assert found.dtype == dtype
    return [row[: len(e)].tolist() for row, e in zip(found[0], episodes, strict=True)]


@pytest.mark.parametrize(
    ("estimator", "first", "second"),
    [
        # G_1 = 1, 0.5, 0, 1 with the mean 0.625; G_2 = 0.5 and 0 with the mean 0.25.
        ("dr_grpo", [0.375, -0.125, -0.625, 0.375], [0.25, -0.25]),
        ("rloo", [0.5, -1 / 6, -5 / 6, 0.5], [0.5, -0.5]),
        (
            "group_norm",
            [x / (0.6875 / 3) ** 0.5 for x in (0.375, -0.125, -0.625, 0.375)],
            [0.25 / 0.125**0.5, -0.25 / 0.125**0.5],
        ),
    ],
)
def test_turns_by_hand(estimator: str, first: list, second: list) -> None:
    found = by_turn([[1.0], [0.0, 0.5], [0.0, 0.0], [1.0]], estimator)
    assert [each[0] for each in found] == pytest.approx(first, rel=1e-5)
    assert [each[1] for each in found[1:3]] == pytest.approx(second, rel=1e-5)


def test_what_an_earlier_turn_was_given_does_not_count_for_a_later_one() -> None:
    """G_2 is 1 and 0 whatever the first turns' -3 and 2."""
    assert by_turn([[-3.0, 1.0], [2.0, 0.0]], "dr_grpo") == [[-2.0, 0.5], [2.0, -0.5]]


@pytest.mark.parametrize("estimator", ["group_norm", "rloo", "dr_grpo"])
def test_a_turn_that_one_sample_has_is_worth_nothing(estimator: str) -> None:
    found = by_turn([[1.0], [1.0], [1.0], [0.0, 0.5, 0.25]], estimator)
    assert found[3][0] < 0
    assert found[3][1:] == [0.0, 0.0]
    assert by_turn([[0.1, 0.2], [0.3, 0.0], [0.0, 0.3]], estimator, dtype=torch.float32)[0][0] == 0


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_episodes_of_one_turn_have_the_advantage_of_their_group(estimator: str, dtype) -> None:
    """To the bit, penalties included, and whatever those say that do not count."""
    rewards = torch.tensor([0.1, 0.7, 0.3, -1.3, torch.nan], dtype=dtype)
    counted = torch.tensor([True, True, True, True, False])
    expected = group_advantages(rewards[None], counted[None], estimator)[0].tolist()
    told = [[0.1], [0.8], [0.3], [-1.3], [torch.nan]]  # 0.7 with a penalty of 0.1
    found = by_turn(told, estimator, counted.tolist(), rewards.tolist(), dtype)
    assert [value for (value,) in found] == expected


@pytest.mark.parametrize("unknown", [[torch.nan, torch.nan], [0.5, torch.nan], []])
def test_where_a_turns_reward_is_not_known_all_of_the_group_have_the_episodes(unknown) -> None:
    episodes, rewards = [[0.0, 1.0], unknown, [0.5]], [1.0, 0.0, 0.5]
    found = by_turn(episodes, "dr_grpo", rewards=rewards)
    assert found == [[0.5, 0.5], [-0.5] * len(unknown), [0.0]]
    counted = [True, False, True]
    assert by_turn(episodes, "dr_grpo", counted, rewards)[0] == [0.25, 0.0]


@pytest.mark.parametrize("estimator", ["reinforce_baseline", "flash_reinforce", "reinforce", "gae"])
def test_without_a_group_to_compare_turns_with_each_has_its_episodes(estimator: str) -> None:
    found = by_turn([[0.0, 1.0], [3.0, 0.0]], estimator)
    assert [each[0] for each in found] == advantages([1.0, 3.0], estimator)
    assert all(first == second for first, second in found)
