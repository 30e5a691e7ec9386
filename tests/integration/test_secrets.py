"""The wandb key stays out of what wandb keeps, with OpenRLHF's own logger."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
KEY = "aaaabbbbccccddddeeeeffff0000111122223333"


def test_the_key_is_not_in_wandbs_config_nor_in_its_logs(tmp_path: Path) -> None:
    """Offline: wandb writes to its folder what it would send."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_DIR": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, str(HERE / "wandb_offline.py")],
        input=KEY + "\n",
        env=os.environ | environment | {"WANDB_MODE": "offline"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "key='***'" in finished.stdout  # as OpenRLHF prints all arguments at a start
    assert KEY not in finished.stdout + finished.stderr
    files = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" and b"1e-06" in path.read_bytes() for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
