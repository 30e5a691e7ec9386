"""OpenRLHF's data set as a ledger: names that tell when the data has changed."""

from types import SimpleNamespace

import pytest

from vespo_openrlhf.bridge.run.dataset import prompt_ledger


def data(prompts: list[str], labels: list[str]) -> SimpleNamespace:
    """What is read of a PromptDataset."""
    return SimpleNamespace(prompts=prompts, labels=labels)


def args(episodes: int = 2, seed: int = 1) -> SimpleNamespace:
    return SimpleNamespace(train=SimpleNamespace(num_episodes=episodes, seed=seed))


def test_a_row_has_a_name_of_its_own_even_where_it_repeats_another() -> None:
    ledger = prompt_ledger(data(["1+1", "2+2", "1+1"], ["2", "4", "2"]), args())
    assert [name.split(":")[0] for name in ledger.names] == ["0", "1", "2"]
    assert ledger.names[0].split(":")[1] == ledger.names[2].split(":")[1]
    assert ledger.epochs == 2


@pytest.mark.parametrize(
    "changed",
    [
        data(["1+1", "2+3"], ["2", "4"]),
        data(["1+1", "2+2"], ["2", "5"]),
        data(["2+2", "1+1"], ["4", "2"]),
        data(["1+1", "2+24"], ["2", ""]),  # the label is not the prompt's last character
    ],
    ids=["prompt", "label", "order", "boundary"],
)
def test_a_resume_on_other_data_is_refused(changed) -> None:
    ledger = prompt_ledger(data(["1+1", "2+2"], ["2", "4"]), args())
    ledger.draw()
    state = ledger.state_dict()
    prompt_ledger(data(["1+1", "2+2"], ["2", "4"]), args()).load_state_dict(state, set())
    with pytest.raises(ValueError, match="written on other prompts"):
        prompt_ledger(changed, args()).load_state_dict(state, set())


def test_a_resume_with_another_seed_or_fewer_episodes_is_refused() -> None:
    rows = data(["1+1", "2+2"], ["2", "4"])
    ledger = prompt_ledger(rows, args())
    for _ in range(4):
        ledger.settle(ledger.draw(), "trained")
    state = ledger.state_dict()
    with pytest.raises(ValueError, match="another shuffle seed"):
        prompt_ledger(rows, args(seed=2)).load_state_dict(state, set())
    with pytest.raises(ValueError, match="beyond the 1 epochs"):
        prompt_ledger(rows, args(episodes=1)).load_state_dict(state, set())
