"""The command `vtagent savings`: what images cost each known model at once and looked at cheaply first."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtagent.eyes import FAMILIES, Eyes, eyes_of
from vtagent.eyes.assistants import eyes_for
from vtagent.images import ImageRef
from vtagent.savings import Bill, bill_of, images_in

_HEAD = ("model", "at once", "low view", "", "low + zoom", "", "break-even")
_NOTE = (
    "Billed tokens, and their share of the whole images at once. Zoom: one look at the middle half of both sides of\n"
    "each image. Break-even: below so many zooms per 100 images, low views first are cheaper. No model was called."
)


@dataclass(frozen=True)
class ModelBill:
    """A line of the table: what one model bills.

    Attributes:
        eyes: What is known of the model.
        bill: For all images together.
        bills: For each image.
    """

    eyes: Eyes
    bill: Bill
    bills: tuple[Bill, ...]


def savings(options: argparse.Namespace) -> None:
    """Prints what the images in `options.files` cost; with `options.figure`, draws it, too.

    Args:
        options: The parsed command line.

    Raises:
        ImageError: A file holds no image that can be used.
        DataError: A folder holds none, or `--for` names an unknown model.
    """
    models = [eyes_for(name) for name in options.models] or [eyes_of(family.example) for family in FAMILIES]
    found = [each for path in options.files for each in images_in(path)]
    names, images = [name for name, _ in found], [image for _, image in found]
    rows = [billed(images, eyes) for eyes in models]
    if options.figure:
        draw(rows, options.figure, title=summary(images))
    if options.json:
        print(json.dumps(report(names, images, rows)))
        return
    print(f"{summary(images)}\n\n{table(rows)}\n\n{_NOTE}")
    if options.figure:
        print(f"The figure is in {options.figure!s:.200}")


def billed(images: list[ImageRef], eyes: Eyes) -> ModelBill:
    """Returns one model's line."""
    bills = tuple(bill_of([image], eyes.vision) for image in images)
    return ModelBill(eyes, sum(bills, Bill()), bills)


def summary(images: list[ImageRef]) -> str:
    """Returns how many images there are, and how large they are."""
    pixels = sum(image.width * image.height for image in images) / 1e6
    many = f"{len(images)} images" if len(images) != 1 else f"1 image, {images[0].width} × {images[0].height}"
    return f"{many}, {pixels:,.2f} megapixels"


def table(rows: list[ModelBill]) -> str:
    """Returns the table as text, one model a line; numbers are aligned to the right."""
    cells = [list(_HEAD)]
    for row in rows:
        bill = row.bill
        low, zoomed = f"{bill.low_share:.0%}", f"{bill.low_and_zoom_share:.0%}"
        cells.append([row.eyes.name, f"{bill.whole:,}", f"{bill.low:,}", low])
        cells[-1] += [f"{bill.low_and_zoom:,}", zoomed, f"{bill.break_even * 100:.0f}"]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    )


def report(names: list[str], images: list[ImageRef], rows: list[ModelBill]) -> dict[str, Any]:
    """Returns the table as JSON, with a line per image and model."""
    return {
        "images": [
            {"file": name, "width": image.width, "height": image.height}
            for name, image in zip(names, images, strict=True)
        ],
        "models": [
            {
                "rule": row.eyes.name,
                "model": row.eyes.model,
                **_numbers(row.bill),
                "images": [_numbers(bill) for bill in row.bills],
            }
            for row in rows
        ],
    }


def _numbers(bill: Bill) -> dict[str, Any]:
    return {
        "whole": bill.whole,
        "low": bill.low,
        "low_and_zoom": bill.low_and_zoom,
        "low_share": round(bill.low_share, 4),
        "low_and_zoom_share": round(bill.low_and_zoom_share, 4),
        "break_even_zooms": round(bill.break_even, 4),
    }


def draw(rows: list[ModelBill], path: Path, *, title: str) -> None:
    """Draws the shares as bars, a model a line.

    Args:
        rows: The lines.
        path: The file to write; its ending decides the format: .png, .svg or .pdf.
        title: Stands above the bars.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.34 * len(rows)), layout="constrained")
    axis = figure.add_subplot()
    places = range(len(rows))
    zoomed = [100 * row.bill.low_and_zoom_share for row in rows]
    low = [100 * row.bill.low_share for row in rows]
    axis.barh(places, zoomed, color="#E69F00", height=0.7, label="low view and one zoom")
    axis.barh(places, low, color="#0072B2", height=0.7, label="low view")
    axis.axvline(100, color="black", linewidth=1, label="whole images at once")
    axis.set_yticks(list(places), [row.eyes.name for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel("billed tokens, % of the whole images at once")
    axis.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    with rc_context({"svg.fonttype": "none"}):  # words stay words
        figure.savefig(path, dpi=150)
