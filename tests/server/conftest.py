from __future__ import annotations

import pytest

from fedkit.federation.flower_link import Link
from tests.federation.link import served
from tests.server.builders import make_coordinator
from tests.server.sites import make_world


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


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with served(tmp_path_factory.mktemp("link")) as found:
        yield found


@pytest.fixture
def world(here, tmp_path):
    found = make_world(here, tmp_path / "coordinator")
    found.start()
    yield found
    found.close_runner()
    for site in found.sites.values():
        site.close()
    here.hang_up()
    found.store.close()
