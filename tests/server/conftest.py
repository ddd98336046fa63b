from __future__ import annotations

import pytest

from fedkit.federation.flower_link import Link
from tests.server.builders import make_coordinator


@pytest.fixture(scope="session")
def link(tmp_path_factory):
    """One of Flower's states for all tests: it takes a second to make, and each test looks at its own nodes only."""
    folder = tmp_path_factory.mktemp("link")
    return Link.open(folder / "link.db", folder / "objects")


@pytest.fixture
def coordinator(tmp_path, link):
    made = make_coordinator(tmp_path / "coordinator", link)
    yield made
    made.close()
