"""Where the verifier's socket lies: no other user can take the place, or have a file cut."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vespo_openrlhf.reward.pool import client


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that everyone may write to, and no runtime folder."""
    with tempfile.TemporaryDirectory() as name:  # short, as a socket's path must be
        folder = Path(name) / "shared"
        folder.mkdir()
        folder.chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(Path(name) / "none"))
        yield folder


def usual(shared: Path) -> Path:
    return shared / f"reward-{os.getuid()}"


def squat(shared: Path, how: str) -> None:
    """What another user can put at the usual name, or as like it as these tests may."""
    place = usual(shared)
    if how == "a folder that others can enter":
        place.mkdir()
        place.chmod(0o755)
    elif how == "a folder of another user":
        if os.getuid():
            pytest.skip("only root can make one")
        place.mkdir(mode=0o700)
        os.chown(place, 12345, 12345)
    elif how == "a file":
        place.touch()
    else:
        private = shared / "mine"
        private.mkdir(mode=0o700)
        place.symlink_to(private if how == "a link to a folder of ours" else shared / "nowhere")


SQUATTED = [
    "a folder that others can enter", "a folder of another user", "a file",
    "a link to a folder of ours", "a link to nowhere",
]  # fmt: skip


def test_the_usual_place_is_private(shared: Path) -> None:
    folder = client.socket_path().parent
    assert folder == usual(shared)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert client.socket_path() == client.socket_path()


def test_the_runtime_folder_comes_first(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = shared.parent / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert client.socket_path().parent.parent == runtime
    runtime.chmod(0o755)
    assert client.socket_path().parent == usual(shared)


@pytest.mark.parametrize("how", SQUATTED)
def test_a_place_that_is_taken_is_given_up(shared: Path, how: str) -> None:
    squat(shared, how)
    folder = client.socket_path().parent
    assert folder not in (usual(shared), shared / "mine")
    assert client._is_ours(folder)
    assert folder.parent == shared
    # Every process comes to the same one, whatever others put beside it.
    (shared / f"{usual(shared).name}-0").symlink_to(folder)
    (shared / f"{usual(shared).name}-1").mkdir()
    (shared / f"{usual(shared).name}-1").chmod(0o777)
    assert client.socket_path().parent == folder


def test_a_link_is_not_written_through(shared: Path) -> None:
    precious = shared / "precious"
    precious.write_text("precious")
    lock = client.socket_path().parent / "lock"
    lock.symlink_to(precious)
    with pytest.raises(OSError, match="lock"):
        client._open(lock)
    lock.unlink()
    lock.write_text("kept")
    client._open(lock).close()
    assert (precious.read_text(), lock.read_text()) == ("precious", "kept")


def test_the_address_goes_with_all_of_the_code(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = shared / "package"
    (package / "inner").mkdir(parents=True)
    for name in ("a.py", "inner/b.py"):
        (package / name).touch()
    monkeypatch.setattr(client, "_PACKAGE", package)
    before = client.socket_path()
    os.utime(package / "inner" / "b.py", (2e9, 2e9))
    assert client.socket_path() != before
