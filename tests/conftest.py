"""What tests of several rooms ask for by name."""

from collections.abc import Iterator

import pytest
import torch

from common.errors import tell


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the numerical tests, which `make numbers` runs by other kernels of the processor."""
    for item in items:
        if "float64" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.numerical)


@pytest.fixture(autouse=True)
def _nothing_was_told() -> None:
    """What is logged once in a process is logged in each test that looks for it."""
    tell.cache_clear()


@pytest.fixture
def float64() -> Iterator[None]:
    """Networks, noise and images made in the test are float64, so that two computations agree to 1e-10 or are two."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
