import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """As the study's own processes: a second thread waits more than it works, and on a busy
    machine many times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
