"""The command `vtagent models`: the known models in a table, or all that is known of one, with its sources."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, is_dataclass
from typing import Any

from vtagent.eyes import FAMILIES, Eyes, eyes_of

PHOTOGRAPH = (4032, 3024)
"""(width, height) in pixels of the image whose cost the table tells."""

SCALE = 0.5
"""Scale of a low view."""


def models(options: argparse.Namespace) -> None:
    """Print the table of models, or one model where `options.name` says which; as JSON with `options.json`.

    Args:
        options: The parsed command line.
    """
    if options.name is None:
        listed = [eyes_of(family.example) for family in FAMILIES]
        print(json.dumps([_summary(eyes) for eyes in listed]) if options.json else _table(listed))
        return
    eyes = eyes_of(options.name, warn=False)
    if options.json:
        print(json.dumps({**_summary(eyes), **_details(eyes)}))
    else:
        print(_described(eyes))


def _summary(eyes: Eyes) -> dict[str, Any]:
    """The columns of the table, by name."""
    whole = eyes.vision.tokens(*PHOTOGRAPH)
    low = eyes.vision.tokens(*eyes.vision.low(*PHOTOGRAPH, SCALE), low=True)
    return {
        "rule": eyes.name,
        "model": eyes.model,
        "api": eyes.wire,
        "tokens_12_mpx": whole,
        "tokens_12_mpx_low": low,
        "tool_images": eyes.tool_images,
        "boxes": eyes.boxes,
    }


def _details(eyes: Eyes) -> dict[str, Any]:
    """What `_summary` leaves out, by name."""
    vision: dict[str, Any] = (
        asdict(eyes.vision) if is_dataclass(eyes.vision) and not isinstance(eyes.vision, type) else {}
    )
    return {
        "known": eyes.known,
        "vision": {"rule": type(eyes.vision).__name__, **vision},
        "size_12_mpx": list(eyes.vision.fit(*PHOTOGRAPH)),
        "size_12_mpx_low": list(eyes.vision.low(*PHOTOGRAPH, SCALE)),
        "limits": asdict(eyes.limits),
        "zoom_dialect": eyes.zoom_dialect,
        "low_setting": eyes.low_setting.extras if eyes.low_setting else None,
        "sources": [asdict(fact) for fact in eyes.sources],
    }


def _table(listed: list[Eyes]) -> str:
    """The known models, one a line, columns aligned; the cost is that of a photograph of 12 megapixels."""
    head = ["model", "such as", "API", "12 Mpx", "low", "images of tools in", "boxes"]
    rows = [head]
    for eyes in listed:
        cells = _summary(eyes)
        rows.append([str(cells[key]) for key in ("rule", "model", "api", "tokens_12_mpx", "tokens_12_mpx_low")])
        rows[-1] += [eyes.tool_images, eyes.boxes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _described(eyes: Eyes) -> str:
    """All that is known of one model, a line each, sources last."""
    cells, more = _summary(eyes), _details(eyes)
    rule = ", ".join(f"{key} {value}" for key, value in more["vision"].items() if key != "rule")
    limits = ", ".join(f"{key} {value:,}" for key, value in more["limits"].items() if value is not None)
    setting = json.dumps(more["low_setting"]) if more["low_setting"] else "none: low views save by their pixels"
    share = cells["tokens_12_mpx_low"] / cells["tokens_12_mpx"]
    fitted, low = ("x".join(str(side) for side in more[key]) for key in ("size_12_mpx", "size_12_mpx_low"))
    known = eyes.name if eyes.known else "not in the table; what follows is assumed (as of Qwen3-VL)"
    lines = [
        f"model           {eyes.model!a}: {known}",
        f"API             {eyes.wire}",
        f"cost            {more['vision']['rule']} ({rule})",
        f"12 Mpx, whole   {cells['tokens_12_mpx']} tokens, sent as {fitted}",
        f"12 Mpx, low     {cells['tokens_12_mpx_low']} tokens ({share:.0%}), sent as {low}",
        f"low setting     {setting}",
        f"limits          {limits or 'none known'}",
        f"tools' images   in a {eyes.tool_images}",
        f"boxes           {eyes.boxes}",
        f"zoom tool       {eyes.zoom_dialect}",
        "sources",
        *(f"  [{fact.trust}] {fact.fact}\n      {fact.source}, {fact.date}" for fact in eyes.sources),
    ]
    return "\n".join(lines)
