"""Which of OpenRLHF's checkpoints a run goes on from, with DeepSpeed's own files."""

from collections.abc import Callable
from pathlib import Path


def test_a_run_goes_on_from_its_last_checkpoint_and_not_from_the_best(
    run_on_deepspeed: Callable[..., str], tmp_path: Path
) -> None:
    assert "resumes at 4 True" in run_on_deepspeed("deepspeed_checkpoints.py", tmp_path)
    assert (tmp_path / "_actor" / "best_global_step6").is_dir()
