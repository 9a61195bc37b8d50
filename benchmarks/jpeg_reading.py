"""Measures whether the bundled policy reads views as well after JPEG coding as from the exact pixels.

    python -m benchmarks.jpeg_reading [--documents 100]

Both read the same fresh documents, greedily. It needs the extras `local` and `samples`, and takes a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import io
from typing import Any

from PIL import Image

from benchmarks._report import report
from vtagent.encoding import Encoding
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.training.data import rendered
from vtagent.training.measure.asking import evaluate
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import VisionSpec


class ThroughJPEG(ViewRenderer):
    """Renders what a hosted model would see: views after encoding and decoding.

    Args:
        store: The store that holds the originals.
        spec: Image sizes of the model family.
        encoding: How views are encoded.
    """

    def __init__(self, store: MemoryImageStore, spec: VisionSpec, encoding: Encoding) -> None:
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
    examples = list(rendered(documents, seed=7, domain="training"))
    model = ChatVLM.from_pretrained("zoom", image_store=MemoryImageStore(), temperature=0.0, max_tokens=96)
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
    """Measures, and writes the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100, help="documents per print size; default: %(default)s")
    documents = parser.parse_args().documents
    note = (
        "Exact matches of the bundled policy `zoom` on fresh documents, half of them in small print, from exact pixels "
        "and from the same views after JPEG coding with colours at full resolution. Bytes are means of all views."
    )
    report("jpeg_reading", exact_matches(documents), note=note)


if __name__ == "__main__":
    main()
