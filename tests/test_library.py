"""Documents of a conversation: what is taken in, how pages are named, searched and recognised."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from PIL import Image

from tests.image_samples import BLUE, GREEN, RED, encode, solid
from tests.pdfs import PdfPage, pdf, report
from vtagent.errors import DataError, ImageNotFound, ModelError, UnreadableImage
from vtagent.garbage import collect_garbage
from vtagent.images import DirectoryImageStore, ImageStore, MemoryImageStore
from vtagent.pages.library import DocumentRecord, Library, PageAt, parse_pages, take_in_paths
from vtagent.pages.ocr import Ocr, RapidOcr, Recognised, Tesseract, find_ocr, recognised
from vtagent.pages.search import PageSearch, page_of, tokens_of
from vtagent.pages.words import Word
from vtagent.pixels import turned


@pytest.fixture
def store() -> MemoryImageStore:
    return MemoryImageStore()


def library(store: ImageStore, folder: Path, *files: bytes, ocr: Ocr | None = None) -> Library:
    paths = []
    for number, data in enumerate(files):
        path = folder / f"{number}{'.pdf' if data.startswith(b'%PDF') else '.tif'}"
        path.write_bytes(data)
        paths.append(path)
    return Library(take_in_paths(paths, store), store, ocr=ocr)


class OneLine(Ocr):
    """Reads the same line on every page, and says that pages lie on their left side."""

    name = "one-line-1"

    def __init__(self, text: str = "Total 48.10", turn: int = 0) -> None:
        self.text, self.turn, self.calls = text, turn, 0

    def read(self, image: Image.Image) -> Recognised:
        self.calls += 1
        words = self.text.split()
        step = 1 / (len(words) + 1)
        return Recognised(
            tuple(Word(word, n * step, 0.5, n * step + step / 2, 0.52) for n, word in enumerate(words)), self.turn
        )


def test_a_folder_is_one_document_in_the_order_that_people_sort(tmp_path: Path, store: ImageStore) -> None:
    for name, colour in (("page10.png", BLUE), ("page2.png", GREEN), ("Page1.png", RED)):
        (tmp_path / name).write_bytes(encode(solid(color=colour)))
    (tmp_path / "notes.txt").write_text("left out")
    [record] = take_in_paths([tmp_path], store)
    assert (record["name"], record["pages"]) == (tmp_path.name, 3)
    assert record["labels"] == ["Page1.png", "page2.png", "page10.png"]
    pages = Library([record], store)
    assert [store.pixels(pages.ref(at).id).getpixel((0, 0)) for at in pages] == [RED, GREEN, BLUE]
    assert pages.title(PageAt(0, 3)) == f"{tmp_path.name}, page 3 (page10.png)"


def test_pdfs_in_a_folder_are_documents_of_their_own(tmp_path: Path, store: ImageStore) -> None:
    (tmp_path / "scan.png").write_bytes(encode(solid()))
    (tmp_path / "report.pdf").write_bytes(report(4))
    records = take_in_paths([tmp_path], store)
    assert [(record["name"], record["pages"]) for record in records] == [(tmp_path.name, 1), ("report.pdf", 4)]
    assert len(Library(records, store)) == 5


def test_two_documents_of_one_name_keep_apart(tmp_path: Path, store: ImageStore) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "report.pdf").write_bytes(report(1, {1: f"This is {folder}"}))
    records = take_in_paths([tmp_path / "a" / "report.pdf", tmp_path / "b" / "report.pdf"], store)
    assert [record["name"] for record in records] == ["report.pdf", "report.pdf (2)"]
    pages = Library(records, store)
    assert "This is b" in pages.text(PageAt(1, 1)).plain
    [third] = take_in_paths([tmp_path / "a" / "report.pdf"], store, known=records)
    assert third["name"] == "report.pdf (3)"


def test_what_cannot_be_used_is_named(tmp_path: Path, store: ImageStore) -> None:
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"%PDF-1.7")
    with pytest.raises(UnreadableImage, match=r"bad\.pdf': the PDF cannot be opened"):
        take_in_paths([bad], store)
    with pytest.raises(ImageNotFound, match=r"no file .*missing\.pdf"):
        take_in_paths([tmp_path / "missing.pdf"], store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image and no PDF in the folder"):
        take_in_paths([tmp_path / "empty"], store)


def test_a_record_is_plain_json_of_a_few_hundred_bytes(tmp_path: Path, store: ImageStore) -> None:
    pages = library(store, tmp_path, report(200))
    assert json.loads(json.dumps(pages.records)) == pages.records
    assert len(json.dumps(pages.records)) < 300


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any))
def test_numbers_of_pages_run_through_all_documents(counts: list[int]) -> None:
    records = [
        DocumentRecord(
            name=str(n),
            pages=count,
            url="",
            images=[f"vtimg://sha256/{n:062x}{i:02x}" for i in range(count)],
            labels=[str(i) for i in range(count)],
            damage=None,
        )
        for n, count in enumerate(counts)
    ]
    pages = Library(records, MemoryImageStore())
    assert [pages.number(at) for at in pages] == list(range(1, sum(counts) + 1))
    assert [pages.at_number(pages.number(at)) for at in pages] == list(pages)
    assert [pages.at_id(pages.id(at)) for at in pages] == list(pages)
    for wrong in (0, sum(counts) + 1):
        with pytest.raises(ImageNotFound):
            pages.at_number(wrong)


@given(st.lists(st.tuples(st.integers(1, 999), st.integers(0, 99)), min_size=1, max_size=4))
def test_pages_are_meant_as_they_are_written(ranges: list[tuple[int, int]]) -> None:
    meant = [(first, first + more) for first, more in ranges]
    assert parse_pages(", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in meant)) == meant


@pytest.mark.parametrize("text", ["", "0", "7-3", "3-", "a", "1,,2", "-1", "1.5", "²"])
def test_other_ways_to_name_pages_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="write 3, 3-7 or 1,4-6"):
        parse_pages(text)


# Search


def test_the_page_that_holds_the_words_is_found_first(tmp_path: Path, store: ImageStore) -> None:
    pages = library(store, tmp_path, report(40, {17: "The contract ends in Reykjavík on 3 May."}), report(3))
    search = PageSearch(library=pages)
    best = search.invoke("When does the contract in REYKJAVIK end?")[0]
    assert best.metadata == {"document": 0, "page": 17, "title": "0.pdf, page 17", "score": best.metadata["score"]}
    assert "3 May" in best.page_content
    assert page_of(best, pages) == PageAt(0, 17)
    assert search.invoke("zebra") == []
    assert search.invoke("?!") == []


def test_pages_without_text_are_known(tmp_path: Path, store: ImageStore) -> None:
    pages = library(store, tmp_path, pdf([PdfPage([(72, 700, 12, "Words")]), PdfPage(), PdfPage(image=solid())]))
    search = PageSearch(library=pages)
    assert (search.readable, search.blank) == ([PageAt(0, 1)], [PageAt(0, 2), PageAt(0, 3)])
    assert PageSearch(library=pages, pages=[PageAt(0, 2)]).invoke("words") == []


@pytest.mark.parametrize(
    ("metadata", "at"),
    [
        ({"page": 2}, PageAt(0, 2)),
        ({"page": 1, "document": 1}, PageAt(1, 1)),
        ({"page": 1, "document": "1.pdf"}, PageAt(1, 1)),
        ({"page": 1, "document": "other.pdf"}, None),
        ({"page": 4}, None),
        ({"page": "2"}, None),
        ({"page": True}, None),
        ({"document": -1, "page": 1}, None),
        ({}, None),
    ],
)
def test_results_of_other_retrievers_name_pages(
    tmp_path: Path, store: ImageStore, metadata: dict[str, object], at: PageAt | None
) -> None:
    pages = library(store, tmp_path, report(3), report(2))
    assert page_of(Document("", metadata=metadata), pages) == at


@given(st.text())
def test_words_are_compared_without_case_and_punctuation(text: str) -> None:
    assert tokens_of(text.upper().lower()) == tokens_of(text.upper().lower().upper().lower())
    assert all(token and not token.isspace() for token in tokens_of(text))


# OCR


def test_what_is_recognised_is_kept_by_the_hash_of_the_file(tmp_path: Path) -> None:
    store = DirectoryImageStore(tmp_path / "images")
    pages = library(store, tmp_path, pdf([PdfPage(image=solid()), PdfPage([(72, 700, 12, "Layer")])]), ocr=OneLine())
    ocr = pages.ocr
    assert isinstance(ocr, OneLine)
    assert pages.text(PageAt(0, 1)).source == "ocr"
    assert pages.text(PageAt(0, 1)).plain == "Total 48.10"
    assert pages.text(PageAt(0, 2)).source == "text"
    assert ocr.calls == 1
    again = Library(pages.records, DirectoryImageStore(tmp_path / "images"), ocr=OneLine("another"))
    assert again.text(PageAt(0, 1)).plain == "Total 48.10"


def test_what_is_recognised_goes_when_the_file_goes(tmp_path: Path) -> None:
    store = DirectoryImageStore(tmp_path / "images")
    pages = library(store, tmp_path, pdf([PdfPage(image=solid())]), ocr=OneLine())
    pages.text(PageAt(0, 1))
    assert list(store.path.rglob("*one-line*"))
    assert collect_garbage(store, (), grace=0, dry_run=True).deleted
    assert list(store.path.rglob("*one-line*"))
    collect_garbage(store, (), grace=0)
    assert [file for file in store.path.rglob("*") if file.is_file()] == []


def test_a_note_is_kept_only_beside_its_file(store: MemoryImageStore) -> None:
    store.put_note("ab" * 32, "x", b"1")
    assert store.note("ab" * 32, "x") is None
    name = store.put(encode(solid())).sha256
    store.put_note(name, "x", b"1")
    assert store.note(name, "x") == b"1"
    store.clear()
    assert store.note(name, "x") is None


def test_a_broken_note_names_the_fix(store: MemoryImageStore) -> None:
    name = store.put(encode(solid())).sha256
    store.put_note(name, "one-line-1-1-0-0", b"{")
    with pytest.raises(UnreadableImage, match="delete it"):
        recognised(name, store, OneLine())


def test_a_page_on_its_side_is_shown_upright(tmp_path: Path, store: ImageStore) -> None:
    pages = library(store, tmp_path, pdf([PdfPage(image=solid((300, 200)), size=(300, 200))]), ocr=OneLine(turn=90))
    ref = pages.ref(PageAt(0, 1))
    assert ref.url.endswith("?page=1&turn=90")
    assert ref.width < ref.height
    assert pages.at_id(ref.id) == PageAt(0, 1)


def scan(*, size: int = 40) -> Image.Image:
    """A page as a scanner makes it: pixels alone."""
    store = MemoryImageStore()
    lines = [
        (60.0, 700.0 - 50 * n, float(size // 2), text)
        for n, text in enumerate(
            [
                "Invoice of Northwind Traders",
                "The goods were sent on Tuesday",
                "Total amount due: 48.10 EUR",
                "Thank you very much",
            ]
        )
    ]
    document = store.documents.put(pdf([PdfPage(lines)]))
    ref = store.ref(document.page(1))
    return store.part(ref.id, (0, 0, ref.width, ref.height), (ref.width // 2, ref.height // 2))


PROGRAMS = [
    pytest.param("rapidocr", id="rapidocr"),
    pytest.param(
        "tesseract",
        id="tesseract",
        marks=pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed"),
    ),
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_scan_is_read_however_it_lies(program: str, turn: int) -> None:
    ocr = find_ocr(program)
    assert ocr is not None
    upright = scan()
    found = ocr.read(turned(upright, turn))
    assert found.turn == (360 - turn) % 360
    texts = [word.text for word in found.words]
    assert {"Total", "48.10", "Northwind"} <= set(texts)
    total = found.words[texts.index("48.10")]
    assert abs((total.top + total.bottom) / 2 - (842 - 607) / 842) < 0.015
    assert 0.35 < total.left < 0.6


def test_the_words_of_rapidocr_stand_where_the_ink_is() -> None:
    image = scan()
    ocr = find_ocr("rapidocr")
    assert isinstance(ocr, RapidOcr)
    for word in ocr.read(image).words:
        box = [
            round(side)
            for side in (
                word.left * image.width,
                word.top * image.height,
                word.right * image.width,
                word.bottom * image.height,
            )
        ]
        crop = image.crop(tuple(box)).convert("L")  # type: ignore[arg-type]
        assert crop.getextrema()[0] < 100  # type: ignore[operator]


def test_an_empty_page_has_no_words() -> None:
    ocr = find_ocr("rapidocr")
    assert ocr is not None
    assert ocr.read(solid((600, 800), (255, 255, 255))) == Recognised(())


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    find_ocr.cache_clear()
    with pytest.raises(ModelError, match="install it, or pip install"):
        find_ocr("tesseract")
    with pytest.raises(ModelError, match="choose auto, rapidocr, tesseract or none"):
        find_ocr("other")
    with pytest.raises(ModelError, match="tesseract failed"):
        Tesseract("/nowhere/tesseract")
    assert find_ocr("none") is None
    find_ocr.cache_clear()


def test_nothing_of_a_document_is_left_behind_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    store = MemoryImageStore()
    pages = library(store, tmp_path, report(3))
    assert [pages.text(at).source for at in pages] == ["text"] * 3
    assert [store.pixels(pages.id(at)).mode for at in pages] == ["RGB"] * 3
    assert os.listdir(temporary) == []
