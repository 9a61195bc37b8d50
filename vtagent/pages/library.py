"""`Library`: the documents of a conversation, and their pages by document and number.

What a thread keeps of a document is a `DocumentRecord`, plain JSON of a few hundred bytes; the pages are read from the
store when they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from vtagent.errors import DataError, ImageError, ImageNotFound, named, one_line
from vtagent.formats import IMAGE_SUFFIXES
from vtagent.names import ImageName
from vtagent.pages.ocr import Ocr, recognised
from vtagent.pages.shelf import is_document
from vtagent.pages.words import PageText
from vtagent.store import ImageRef, ImageStore, read_regular

__all__ = ["DocumentRecord", "Library", "PageAt", "parse_pages", "record_of", "take_in_paths"]

_SUFFIXES = IMAGE_SUFFIXES | {".pdf"}
"""Files of a folder that are read; all others are left out."""


class DocumentRecord(TypedDict):
    """What a thread keeps of a document."""

    name: str
    """What people call it; no two documents of a thread have the same."""
    pages: int
    """Number of pages."""
    url: str
    """vtimg://sha256/<hex> of a file of pages; empty if each page is a file of its own."""
    images: list[str]
    """vtimg:// references of the pages that are files of their own; none of a file of pages."""
    labels: list[str]
    """What stands for the printed number of such pages: the names of their files."""
    damage: str | None
    """What is wrong with the file, if it could be read nevertheless."""


@dataclass(frozen=True, order=True)
class PageAt:
    """The place of a page: its document, counted from 0, and its number there, counted from 1."""

    document: int
    page: int


class Library:
    """The documents of a conversation.

    Args:
        records: The documents.
        store: The store that holds them.
        ocr: The program that reads pages without a text layer; None leaves them without text.
    """

    def __init__(self, records: Sequence[DocumentRecord], store: ImageStore, *, ocr: Ocr | None = None) -> None:
        self.records, self.store, self.ocr = list(records), store, ocr

    def __len__(self) -> int:
        return sum(record["pages"] for record in self.records)

    def __iter__(self) -> Iterator[PageAt]:
        """All pages, document by document."""
        for document, record in enumerate(self.records):
            for page in range(1, record["pages"] + 1):
                yield PageAt(document, page)

    def record(self, at: PageAt) -> DocumentRecord:
        """The document of a page.

        Raises:
            ImageNotFound: There is no such page.
        """
        if not 0 <= at.document < len(self.records):
            raise ImageNotFound(f"there is no document {at.document + 1}: there are {len(self.records)}")
        record = self.records[at.document]
        if not 1 <= at.page <= record["pages"]:
            raise ImageNotFound(f"there is no page {at.page} in {record['name']}: it has {record['pages']}")
        return record

    def id(self, at: PageAt) -> str:
        """The id of a page as its file turns it.

        Raises:
            ImageNotFound: There is no such page.
        """
        record = self.record(at)
        url = record["url"] or record["images"][at.page - 1]
        name = url.removeprefix("vtimg://sha256/")
        return str(ImageName(name, at.page)) if record["url"] else name

    def ref(self, at: PageAt) -> ImageRef:
        """The reference to a page that stands upright, as far as OCR was wanted and could tell.

        Raises:
            ImageError: The page cannot be used.
        """
        name = ImageName.parse(self.id(at))
        return self.store.ref(str(ImageName(name.sha256, name.page, self._read(at)[1])))

    def text(self, at: PageAt) -> PageText:
        """The words of the upright page: its text layer, or what OCR recognises.

        Raises:
            ImageError: The page cannot be used.
            ModelError: The OCR program failed.
        """
        return self._read(at)[0]

    def label(self, at: PageAt) -> str:
        """What is printed as the page's number, as far as the file says it; a file's name in a folder."""
        record = self.record(at)
        return self.store.documents.label(self.id(at)) if record["url"] else record["labels"][at.page - 1]

    def title(self, at: PageAt) -> str:
        """How people are told of a page: "report.pdf, page 7 (iv)"."""
        record, label = self.record(at), self.label(at)
        name = record["name"]
        if record["pages"] == 1:
            return name
        return f"{name}, page {at.page}" + ("" if label == str(at.page) else f" ({label})")

    def number(self, at: PageAt) -> int:
        """The number of a page among the pages of all documents, counted from 1."""
        self.record(at)
        return sum(record["pages"] for record in self.records[: at.document]) + at.page

    def at_number(self, number: int) -> PageAt:
        """The page of a number that `number` gives.

        Raises:
            ImageNotFound: There is no such page.
        """
        rest = number
        for document, record in enumerate(self.records):
            if 1 <= rest <= record["pages"]:
                return PageAt(document, rest)
            rest -= record["pages"]
        raise ImageNotFound(f"there is no page {number}: there are {len(self)} pages")

    def at_id(self, id: str) -> PageAt | None:
        """The first page that has an id, turned or not; None if none has."""
        wanted = ImageName.parse(id)
        for document, record in enumerate(self.records):
            if record["url"]:
                if record["url"].endswith(wanted.sha256) and wanted.page and wanted.page <= record["pages"]:
                    return PageAt(document, wanted.page)
            elif f"vtimg://sha256/{wanted.sha256}" in record["images"]:
                return PageAt(document, record["images"].index(f"vtimg://sha256/{wanted.sha256}") + 1)
        return None

    def _read(self, at: PageAt) -> tuple[PageText, int]:
        id_ = self.id(at)
        layer = self.store.documents.text(id_)
        if layer.words or self.ocr is None:
            return layer, 0
        return recognised(id_, self.store, self.ocr)


def take_in_paths(
    paths: Iterable[Path], store: ImageStore, *, known: Sequence[DocumentRecord] = ()
) -> list[DocumentRecord]:
    """Puts files into a store: PDFs, TIFFs, images, and folders of these. No page is drawn.

    The images of a folder are the pages of one document, in the order in which people sort their names; each PDF and
    each TIFF of several pages in it is a document of its own. Other files of a folder are left out.

    Args:
        paths: Files and folders that the user names.
        store: Where they go.
        known: Documents that the thread has already; the new ones' names differ from theirs.

    Returns:
        The documents.

    Raises:
        ImageError: A file cannot be used; the text names it.
        DataError: A folder has no file that can be used.
    """
    found: list[DocumentRecord] = []

    def add(record: DocumentRecord) -> None:
        taken = {each["name"] for each in (*known, *found)}
        name, number = record["name"], 2
        while record["name"] in taken:
            record["name"], number = f"{name} ({number})", number + 1
        found.append(record)

    for path in paths:
        if not path.is_dir():
            add(_file(path, store))
            continue
        files = sorted((f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES), key=_as_people_sort)
        if not files:
            raise DataError(f"no image and no PDF in the folder {str(path)!r}")
        folder = DocumentRecord(name=path.resolve().name, pages=0, url="", images=[], labels=[], damage=None)
        whole = []
        for file in files:
            record = _file(file, store)
            if record["url"]:
                whole.append(record)
            else:
                folder["images"] += record["images"]
                folder["labels"].append(file.name)
                folder["pages"] += 1
        if folder["pages"]:
            add(folder)
        for record in whole:
            add(record)
    return found


def _file(path: Path, store: ImageStore) -> DocumentRecord:
    """A file as a document."""
    limits = store.limits
    try:
        return record_of(path.name, read_regular(path, limits.documents.max_bytes), store)
    except FileNotFoundError:
        raise ImageNotFound(f"no file {str(path)!r}") from None
    except ImageError as error:
        raise named(type(error)(one_line(error, limit=1000)), str(path)) from error


def record_of(name: str, data: bytes, store: ImageStore) -> DocumentRecord:
    """Puts a PDF, a TIFF or an image into a store.

    Args:
        name: What people call it.
        data: The file.
        store: Where it goes.

    Raises:
        ImageError: It cannot be used.
    """
    if is_document(data):
        document = store.documents.put(data)
        if document.pages > 1 or document.mime_type != "image/tiff":
            url = f"vtimg://sha256/{document.sha256}"
            return DocumentRecord(
                name=name, pages=document.pages, url=url, images=[], labels=[], damage=document.damage
            )
    ref = store.put(data)
    return DocumentRecord(name=name, pages=1, url="", images=[ref.url], labels=[name], damage=None)


def _as_people_sort(path: Path) -> list[tuple[bool, int, str]]:
    """The key that puts page2.png before page10.png."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [
        (part.isdigit() and part.isascii(), int(part) if part.isascii() and part.isdigit() else 0, part)
        for part in parts
    ]


def parse_pages(text: str) -> list[tuple[int, int]]:
    """Reads which pages are meant: "3", "3-7", "1,4-6".

    Args:
        text: What the user has written.

    Returns:
        Ranges as (first, last), counted from 1.

    Raises:
        DataError: It means no pages.
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9][0-9]{0,5})\s*(?:-\s*([1-9][0-9]{0,5})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise DataError(f"{text!r:.80} names no pages: write 3, 3-7 or 1,4-6")
        ranges.append((first, last))
    return ranges
