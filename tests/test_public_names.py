"""The public surface: sorted, complete, documented."""

from __future__ import annotations

import importlib

import pytest

ROOMS = ("vtagent", "vtagent.eyes", "vtagent.graphs", "vtagent.models", "vtagent.tools")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_and_says_what_it_is(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__doc__
    for name in module.__all__:
        public = getattr(module, name)
        assert public.__doc__, name


def test_no_room_offers_more_than_a_reader_can_hold() -> None:
    assert all(len(importlib.import_module(room).__all__) <= 14 for room in ROOMS)
