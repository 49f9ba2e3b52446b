"""Fixtures that several tests share; its place makes ``tests`` importable."""

from collections.abc import Iterator

import pytest

from fake_server import FakeServer


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server
