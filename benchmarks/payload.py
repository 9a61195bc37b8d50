"""Measures the bytes that the views of a photograph take in a request to a hosted model.

    python -m benchmarks.payload

A 12-megapixel JPEG of about 1.2 MB is shown whole, at half its sides, and in two zooms: as PNG, which keeps the exact
pixels, and as `LOSSY` sends them.
"""

from __future__ import annotations

import argparse
import io
import time
from typing import Any

from benchmarks._report import report
from benchmarks.low_view import page
from vtagent.encoding import LOSSLESS, LOSSY
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


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    note = (
        "Megabytes of the views of a 12-megapixel JPEG in a request; base64 adds a third. Goal: no view takes more "
        f"than the file. JPEG quality {LOSSY.quality}, colours at full resolution. A whole view of the original's size "
        "is the original."
    )
    report("payload", bytes_of_views(), note=note)


if __name__ == "__main__":
    main()
