"""Measures the bytes that views take in a request to a hosted model, and what JPEG costs in answers.

    python -m benchmarks.payload [--documents 100]

Bytes: a 12-megapixel JPEG of about 1.2 MB, its low view and three zooms, as PNG (exact pixels) and as `LOSSY` sends them.
Answers: the bundled policy reads fresh documents once from the exact pixels and once from the same views after a trip
through JPEG, and the exact matches are compared. The second part needs the extra `samples` and takes a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import time
from typing import Any

from PIL import Image

from benchmarks._report import report
from benchmarks.low_view import page
from vtagent.encoding import LOSSLESS, LOSSY, Encoding
from vtagent.images import MemoryImageStore
from vtagent.regions import Region
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import QWEN2_5_VL

SIZE = (4032, 3024)
FILE_QUALITY = 60
"""JPEG quality at which the photographed page takes about 1.2 MB."""

VIEWS = {
    "whole": (1.0, None),
    "low view": (0.5, None),
    "zoom, a quarter": (1.0, Region(250, 250, 750, 750)),
    "zoom, a ninth": (1.0, Region(333, 333, 667, 667)),
}


def bytes_of_views() -> list[dict[str, Any]]:
    """Encodes each view of the photograph both ways; returns rows of the report."""
    buffer = io.BytesIO()
    page(SIZE).save(buffer, "JPEG", quality=FILE_QUALITY)
    store = MemoryImageStore()
    ref = store.put(buffer.getvalue())
    size = len(buffer.getvalue())
    rows = []
    for name, (scale, region) in VIEWS.items():
        view = View(ref, scale, region)
        renderer = ViewRenderer(store, QWEN2_5_VL)
        renderer.render(view)
        exact = renderer.encode(view, LOSSLESS)
        start = time.perf_counter()
        sent = renderer.encode(view, LOSSY)
        milliseconds = (time.perf_counter() - start) * 1000
        rows.append(
            {
                "what": f"{name}, {view.size(QWEN2_5_VL)[0]}x{view.size(QWEN2_5_VL)[1]}",
                "file (MB)": round(size / 1e6, 2),
                "exact pixels": round(len(exact.data) / 1e6, 2),
                "lossy": round(len(sent.data) / 1e6, 2),
                "type": sent.mime_type,
                "encoded in (ms)": round(milliseconds, 1),
                "goal": "met" if len(sent.data) <= size else "missed",
            }
        )
    return rows


class ThroughJPEG(ViewRenderer):
    """Renders what a hosted model would see: views after encoding and decoding.

    Args:
        store: The store that holds the originals.
        spec: Image sizes of the model family.
        encoding: How views are encoded.
    """

    def __init__(self, store: MemoryImageStore, spec: Any, encoding: Encoding) -> None:
        super().__init__(store, spec)
        self.encoding = encoding
        self.sizes: list[int] = []

    def render(self, view: View) -> Image.Image:
        """Renders a view; see `ViewRenderer.render`."""
        image = super().render(view)
        if not self.encoding.lossy:
            self.sizes.append(len(self.encode(view).data))
            return image
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.encoding.quality, subsampling=0)
        self.sizes.append(len(buffer.getvalue()))
        return Image.open(buffer).convert("RGB")


def exact_matches(documents: int) -> list[dict[str, Any]]:
    """Reads documents from exact pixels and through JPEG; returns rows of the report.

    Args:
        documents: Fresh documents per print size; there are two sizes.
    """
    from vtagent.models.chat import ChatVLM
    from vtagent.training.data import rendered
    from vtagent.training.measure.asking import evaluate

    examples = list(rendered(documents, seed=7, domain="training"))
    model = ChatVLM.from_pretrained("zoom", store=MemoryImageStore(), temperature=0.0, max_tokens=96)
    rows = []
    for quality in (None, 95, 90, 85, 75):
        encoding = Encoding(lossy=quality is not None, quality=quality or 90)
        renderer = ThroughJPEG(model.store, model.vision, encoding)
        model._renderer = renderer
        outcomes = asyncio.run(evaluate(model, examples, ["zoom"], concurrency=32))
        rows.append(
            {
                "what": f"{len(examples)} documents, " + ("exact pixels" if quality is None else f"JPEG {quality}"),
                "exact match": f"{sum(bool(outcome.right) for outcome in outcomes)}/{len(outcomes)}",
                "bytes of a view": round(sum(renderer.sizes) / max(1, len(renderer.sizes))),
            }
        )
    return rows


def main() -> None:
    """Measures, and writes the reports to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--documents", type=int, default=100, help="documents per print size; 0 skips them; default: %(default)s")
    documents = parser.parse_args().documents
    report(
        "payload",
        bytes_of_views(),
        note=(
            "Megabytes of the views of a 12-megapixel JPEG in a request (base64 adds a third). Goal: each view takes fewer "
            f"than the file. JPEG quality {LOSSY.quality}, colours at full resolution; a whole view of the original's "
            "size is the original."
        ),
    )
    if documents:
        report(
            "payload_reading",
            exact_matches(documents),
            note=(
                "Exact matches of the bundled policy `zoom` on fresh documents, half of them in small print, from exact "
                "pixels and from the same views after JPEG coding."
            ),
        )


if __name__ == "__main__":
    main()
