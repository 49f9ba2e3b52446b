"""Fixtures that several tests share; its place makes ``tests`` importable."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from fake_server import FakeServer

settings.register_profile("rubrica", deadline=None)  # a busy machine is no failure
settings.load_profile("rubrica")


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server
