"""PDFs for the tests, written by hand: text at known places, turned pages, labels, scans, and what a stranger sends."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

A4 = (595, 842)


@dataclass
class PdfPage:
    """One page: lines of text as (x, y, size in points, text), y from the bottom; or a picture of the whole page."""

    lines: Sequence[tuple[float, float, float, str]] = ()
    size: tuple[float, float] = A4
    rotate: int = 0
    image: Image.Image | None = None
    extra: str = ""
    drawing: str = ""
    hidden: bool = False
    """Whether the text is invisible, as OCR programs write it behind a scan."""


@dataclass
class _Objects:
    bodies: list[bytes] = field(default_factory=list)

    def add(self, body: bytes) -> int:
        self.bodies.append(body)
        return len(self.bodies)


def stream(data: bytes, head: str = "") -> bytes:
    return f"<< /Length {len(data)} {head} >>\nstream\n".encode() + data + b"\nendstream"


def pdf(
    pages: Iterable[PdfPage], *, catalog: str = "", labels: str = "", objects: Mapping[str, bytes] | None = None
) -> bytes:
    """A PDF of the pages.

    Args:
        pages: The pages.
        catalog: Further entries of the catalog. {name} stands for the number of an object.
        labels: A number tree of page labels.
        objects: Further objects by name.
    """
    listed = list(pages)
    all_ = _Objects()
    root, tree = all_.add(b""), all_.add(b"")
    font = all_.add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    named = {name: all_.add(body) for name, body in (objects or {}).items()}
    kids = []
    for page in listed:
        content = page.drawing.encode("latin-1")
        resources = f"/Font << /F1 {font} 0 R >>"
        if page.image is not None:
            width, height = page.image.size
            head = f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceRGB"
            head += " /BitsPerComponent 8 /Filter /FlateDecode"
            number = all_.add(stream(zlib.compress(page.image.convert("RGB").tobytes()), head))
            resources += f" /XObject << /Im {number} 0 R >>"
            content += f"q {page.size[0]} 0 0 {page.size[1]} 0 0 cm /Im Do Q\n".encode()
        for x, y, size, text in page.lines:
            escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
            mode = "3 Tr " if page.hidden else ""
            content += f"BT {mode}/F1 {size} Tf {x} {y} Td ({escaped}) Tj ET\n".encode("cp1252")
        body = all_.add(stream(content))
        more = page.extra.format(**named)
        kids.append(
            all_.add(
                f"<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 {page.size[0]} {page.size[1]}] "
                f"/Rotate {page.rotate} /Contents {body} 0 R /Resources << {resources} >> {more} >>".encode()
            )
        )
    names = " ".join(f"{kid} 0 R" for kid in kids)
    all_.bodies[tree - 1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{names}] >>".encode()
    label = f"/PageLabels << /Nums [{labels}] >>" if labels else ""
    all_.bodies[root - 1] = f"<< /Type /Catalog /Pages {tree} 0 R {label} {catalog.format(**named)} >>".encode()
    return written(all_.bodies)


def written(bodies: Sequence[bytes], trailer: str = "") -> bytes:
    """Objects, the first of which is the catalog, as a file."""
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(bodies, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + body + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n".encode())
    out.writelines(f"{place:010d} 00000 n \n".encode() for place in places)
    out.write(f"trailer << /Size {len(bodies) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def report(count: int, facts: Mapping[int, str] | None = None) -> bytes:
    """A report of `count` pages; `facts` are further lines of some, by page number from 1."""
    pages = []
    for number in range(1, count + 1):
        lines = [
            (72.0, 770.0, 20.0, f"Chapter {number}"),
            (72.0, 700.0, 10.0, f"This is the text of chapter {number}."),
        ]
        if fact := (facts or {}).get(number):
            lines.append((72.0, 400.0, 10.0, fact))
        lines.append((290.0, 40.0, 9.0, f"- {number} -"))
        pages.append(PdfPage(lines))
    return pdf(pages)
