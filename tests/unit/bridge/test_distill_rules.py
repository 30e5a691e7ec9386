"""A teacher: what is refused before anything starts, and what its flags stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge.flags import complete
from vespo_openrlhf.bridge.loss import skips_old_log_probs
from vespo_openrlhf.bridge.roles import roles, teacher_model
from vespo_openrlhf.bridge.rules.distill import check_distillation, check_teacher
from vespo_openrlhf.embedded.tokenizer import build_tokenizer


@pytest.fixture
def flags(tmp_path: Path, defaults: dict[str, object]) -> dict[str, Any]:
    """Of a student, with a teacher of the same tokenizer."""
    for name in ("student", "teacher"):
        build_tokenizer().save_pretrained(tmp_path / name)
    return defaults | {
        "actor.model_name_or_path": str(tmp_path / "student"),
        "distill.teacher": str(tmp_path / "teacher"),
        "algo.kl.init_coef": 0.0,
        "reward.remote_url": None,
    }


def test_a_teacher_stands_where_a_reference_model_would(flags: dict[str, Any]) -> None:
    check_distillation(flags)
    check_teacher(flags)
    assert "ref" in roles(flags)
    assert teacher_model(flags) == flags["distill.teacher"]
    assert skips_old_log_probs(flags | {"algo.kl.init_coef": 1.0})  # as OpenRLHF is told


def test_a_teacher_alone_needs_no_reward(
    flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = flags | {"distill.teacher": "teacher"}
    notes = complete(alone)
    assert alone["reward.remote_url"].endswith("reward/no_reward.py")
    assert any("no_reward.py" in note for note in notes)
    assert alone["distill.teacher"] == str(tmp_path / "teacher")
    mixed = flags | {"distill.coef": 0.5}
    complete(mixed)
    assert mixed["reward.remote_url"] is None  # and is then asked for
    own = flags | {"reward.remote_url": "http://localhost:5000"}
    complete(own)
    assert own["reward.remote_url"] == "http://localhost:5000"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo.kl.init_coef": 0.1}, r"in the reference model's place, .* set it to 0"),
        (
            {"actor.policy_loss_type": "ppo", "vespo.anchor": "old"},
            "OpenRLHF's own loss, .* hears no teacher",
        ),
        ({"distill.direction": "forward"}, r"is for samples of the teacher, .* --offline\.data"),
        ({"algo.dynamic_filtering_enable": True}, "leave the filter out"),
        ({"distill.teacher": "recorded"}, r"set --offline\.data to samples with its log-probs"),
        (
            {
                "distill.teacher": "recorded",
                "offline.data": ["x"],
                "offline.behaviour": "initial",
            },
            r"set --offline\.data to samples with its log-probs",
        ),
        ({"distill.teacher": None, "distill.coef": 0.5}, r"--distill\.coef has no effect"),
        (
            {"distill.estimator": "full", "actor.policy_loss_type": "gspo"},
            "gspo has none: take one",
        ),
        ({"distill.estimator": "full", "actor.log_prob_head": "full"}, "by the chunked head"),
        ({"distill.estimator": "full", "agent.weight": "turn"}, "KLs are weighed by episodes"),
        (
            {"distill.estimator": "full", "distill.direction": "forward", "offline.data": ["x"]},
            "is the reverse KL",
        ),
        (
            {
                "distill.estimator": "full",
                "distill.teacher": "recorded",
                "offline.data": ["x"],
            },
            "log-probs of the sampled tokens alone",
        ),
        ({"distill.coef": 2.0}, r"--distill\.coef must be above 0 and at most 1"),
    ],
)
def test_what_does_not_go_with_a_teacher_is_refused(
    changes: dict[str, Any], message: str, flags: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        check_distillation(flags | changes)


def test_the_recorded_teacher_needs_no_model(flags: dict[str, Any]) -> None:
    recorded = flags | {"distill.teacher": "recorded", "offline.data": ["x"]}
    check_distillation(recorded | {"distill.direction": "forward"})
    check_teacher(recorded)
    assert "ref" not in roles(recorded)


def test_a_teacher_of_another_tokenizer_is_refused(flags: dict[str, Any]) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(flags["distill.teacher"])
    with pytest.raises(ValueError, match="has another tokenizer than the student"):
        check_teacher(flags)


def test_a_teacher_that_is_not_there_is_named(flags: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--distill\.teacher .*empty has no tokenizer"):
        check_teacher(flags | {"distill.teacher": str(tmp_path / "empty")})
