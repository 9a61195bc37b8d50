"""The benchmark of regions: zooms are spread as asked, and the stages are those of the engine."""

from __future__ import annotations

import pytest

from benchmarks.region_zoom import STAGES, compare, contexts, staged
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.training.data import open_examples


@pytest.mark.parametrize(("share", "zooms"), [(0.0, 0), (0.33, 9), (0.8, 24), (1.0, 30)])
def test_zooms_are_spread_evenly(share: float, zooms: int) -> None:
    found = [context.zoom_bias > 0 for context in contexts(share, 30)]
    assert sum(found) == zooms
    halves = sum(found[:15]), sum(found[15:])
    assert abs(halves[0] - halves[1]) <= 1


def test_full_resolution_is_shown_at_once() -> None:
    assert {(context.scale, context.max_zooms) for context in contexts(None, 3)} == {(1.0, 0)}


def test_both_sides_are_measured_in_every_stage() -> None:
    model = ChatVLM.from_pretrained("zoom", image_store=MemoryImageStore(), temperature=0.0, max_tokens=64)
    full, direct, zoomed = compare(model, "rendered", runs=2, repeats=1, shares=[0.0, 1.0])
    assert (full["first"], full["÷ full"], full["visual tokens"]) == ("full resolution", 1.0, 140)
    assert (direct["zooms"], direct["visual tokens"], direct["area of a zoom"]) == ("0%", 35, "–")
    assert (zoomed["zooms"], zoomed["visual tokens"], zoomed["area of a zoom"]) == ("100%", 175, "100%")
    for row in (full, direct, zoomed):
        assert all(row[f"{stage} (ms)"] > 0 for stage in STAGES)
        assert sum(row[f"{stage} (ms)"] for stage in STAGES) < row["ms a run"]
    with staged(model) as spent:
        list(open_examples("rendered", count=1))
    assert spent == dict.fromkeys(STAGES, 0.0)  # nothing was asked
    model.engine.close()
