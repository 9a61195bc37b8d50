"""Reads one PDF with PDFium, in a process of its own that can be ended; `vtagent.pages.pdf_process` starts it.

A request is a line of JSON and the bytes that it announces; so is a reply. Nothing of vtagent is imported here.
Scripts, links, attachments and form actions of the file are never run, opened or followed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

_UNITS = 10_000_000
"""Units to a side of a page, in which PDFium gives the place of a glyph as whole numbers."""


class Worker:
    """The opened file, and an answer to each kind of request."""

    def __init__(self) -> None:
        import pypdfium2
        import pypdfium2.raw as raw

        self.pdfium: Any = pypdfium2
        self.raw: Any = raw
        self.document: Any = None
        self.page: tuple[int, Any] | None = None

    def answer(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """The head and the bytes of a reply."""
        operation: str = request.pop("do")
        if operation == "open":
            return self.open(data), b""
        found: tuple[dict[str, Any], bytes] = getattr(self, operation)(**request)
        return found

    def open(self, data: bytes) -> dict[str, Any]:
        """Open the file."""
        try:
            self.document = self.pdfium.PdfDocument(data)
        except self.pdfium.PdfiumError as error:
            code = self.raw.FPDF_GetLastError()
            locked = code in (self.raw.FPDF_ERR_PASSWORD, self.raw.FPDF_ERR_SECURITY) or "assword" in str(error)
            why = "it has no pages" if code == self.raw.FPDF_ERR_SUCCESS else "its format is broken"
            return {"error": why, "locked": locked}
        sound = bool(self.raw.FPDF_DocumentHasValidCrossReferenceTable(self.document.raw))
        return {"pages": len(self.document), "sound": sound}

    def size(self, page: int) -> tuple[dict[str, Any], bytes]:
        """The size of a page in points, as the file turns it."""
        size = self.raw.FS_SIZEF()
        if not self.raw.FPDF_GetPageSizeByIndexF(self.document.raw, page - 1, size):
            return {"error": "the page cannot be loaded"}, b""
        return {"size": [size.width, size.height]}, b""

    def label(self, page: int) -> tuple[dict[str, Any], bytes]:
        """The printed number of a page."""
        return {"label": self.document.get_page_label(page - 1)}, b""

    def render(
        self, page: int, full: list[int], at: list[int], size: list[int], turn: int
    ) -> tuple[dict[str, Any], bytes]:
        """Draw the part of a page of `full` pixels that begins `at` a pixel and has `size` pixels."""
        raw = self.raw
        width, height = size
        pixels = bytearray(4 * width * height)
        buffer = (ctypes.c_char * len(pixels)).from_buffer(pixels)
        bitmap = raw.FPDFBitmap_CreateEx(width, height, raw.FPDFBitmap_BGRx, buffer, 4 * width)
        raw.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, 0xFFFFFFFF)
        place = (-at[0], -at[1], *full, turn // 90)
        raw.FPDF_RenderPageBitmap(bitmap, self._page(page).raw, *place, raw.FPDF_ANNOT)
        raw.FPDFBitmap_Destroy(bitmap)
        return {}, bytes(pixels)

    def words(self, page: int, most: int) -> tuple[dict[str, Any], bytes]:
        """The words of a page as [text, left, top, right, bottom, line], at most so many; sides are 0 to 1."""
        raw, opened = self.raw, self._page(page)
        text_page = opened.get_textpage()
        found: list[list[Any]] = []
        letters: list[int] = []
        box = [2.0, 2.0, -1.0, -1.0]
        line, rectangle = 0, raw.FS_RECTF()
        across, down = ctypes.c_int(), ctypes.c_int()

        def place(x: float, y: float) -> tuple[float, float]:
            raw.FPDF_PageToDevice(opened.raw, 0, 0, _UNITS, _UNITS, 0, x, y, across, down)
            return across.value / _UNITS, down.value / _UNITS

        def end() -> None:
            if letters and box[0] < 1 and box[1] < 1 and box[2] > 0 and box[3] > 0:  # what lies on the page
                text = b"".join(each.to_bytes(4, "little") for each in letters).decode("utf-32-le", "replace")
                found.append([text, *(min(1.0, max(0.0, side)) for side in box), line])
            letters.clear()
            box[:] = [2.0, 2.0, -1.0, -1.0]

        for index in range(raw.FPDFText_CountChars(text_page.raw)):
            code = raw.FPDFText_GetUnicode(text_page.raw, index)
            if code in (10, 13):
                end()
                line += code == 10
            elif (code <= 32 and code != 2) or code in (0xA0, 0x3000) or 0x2000 <= code <= 0x200B:
                end()
            elif raw.FPDFText_GetLooseCharBox(text_page.raw, index, rectangle):
                for x, y in (
                    place(rectangle.left, rectangle.top),
                    place(rectangle.right, rectangle.bottom),
                ):
                    box = [min(box[0], x), min(box[1], y), max(box[2], x), max(box[3], y)]
                # PDFium writes 2 or 0xFFFE for a hyphen at the end of a line.
                letters.append(45 if code in (2, 0xFFFE) else code if not 0xD800 <= code < 0xE000 else 0xFFFD)
            if len(found) >= most:
                break
        end()
        text_page.close()
        return {"words": found[:most]}, b""

    def _page(self, number: int) -> Any:
        """A loaded page; the last one is kept."""
        if self.page is None or self.page[0] != number:
            if self.page is not None:
                self.page[1].close()
            self.page = None
            self.page = number, self.document[number - 1]
        return self.page[1]


def main(seconds: str, memory: str) -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # PDFium may print
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    except (ImportError, ValueError, OSError):  # Windows has no limits, macOS not this one
        pass
    worker = Worker()
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        data = sys.stdin.buffer.read(request.pop("bytes", 0))
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, float(seconds))  # its signal ends the process
        try:
            head, body = worker.answer(request, data)
        except MemoryError:
            head, body = {"error": "MemoryError"}, b""
        except Exception as error:
            head, body = {"error": " ".join(str(error).split()) or type(error).__name__}, b""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n")
        replies.write(body)
        replies.flush()


if __name__ == "__main__":
    main(*sys.argv[3:])
