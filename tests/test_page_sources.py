"""Pages of PDFs and TIFFs are images of the store: views, regions and turns of them, and what a stranger sends."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from PIL import Image, ImageChops, ImageDraw, ImageStat

from tests.image_samples import BLUE, GREEN, RED, WHITE, quarters, solid
from tests.pdfs import A4, PdfPage, pdf, report, stream, written
from tests.scripted_chat import ScriptedChat
from vtagent.errors import ImageNotFound, ImageRefused, ImageTampered, ImageTooLarge, UnreadableImage
from vtagent.eyes import Vision
from vtagent.garbage import collect_garbage
from vtagent.graphs.checkpoints import images_in_use
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import DirectoryImageStore, ImageStore, MemoryImageStore
from vtagent.ingest import ingest
from vtagent.limits import DocumentLimits, ImageLimits
from vtagent.names import ImageName
from vtagent.pages.words import Word, region_around
from vtagent.regions import Region
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import QWEN3_VL

SPEC: Vision = QWEN3_VL


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return MemoryImageStore() if request.param == "memory" else DirectoryImageStore(tmp_path / "images")


def tiff(*pages: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    return buffer.getvalue()


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters."""
    width, height = image.size
    places = [(x, y) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(round(value / 255) * 255 for value in image.getpixel(place)) for place in places]  # type: ignore[union-attr]


def dark(image: Image.Image) -> float:
    return 255 - float(ImageStat.Stat(image.convert("L")).mean[0])


def test_a_page_of_a_pdf_is_an_image_of_the_store(store: ImageStore) -> None:
    document = store.documents.put(report(3, {2: "Total: 48.10"}))
    assert (document.pages, document.mime_type) == (3, "application/pdf")
    ref = store.ref(document.page(2))
    assert ref.url == f"vtimg://sha256/{document.sha256}?page=2"
    assert (ref.width, ref.height) == (round(A4[0] * 200 / 72), round(A4[1] * 200 / 72))
    assert ref.id in store
    assert store.pixels(ref.id).size == (ref.width, ref.height)


def test_nothing_is_drawn_that_is_not_looked_at(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    document = store.documents.put(report(200))
    drawn: list[int] = []
    source = store.documents.source(document.sha256)
    draw = source.render

    def render(page: int, *args: Any, **kwargs: Any) -> Any:
        drawn.append(page)
        return draw(page, *args, **kwargs)

    monkeypatch.setattr(source, "render", render)
    views = [View(store.ref(document.page(number)), 0.25) for number in (7, 190)]
    assert [view.size(SPEC) for view in views]
    assert drawn == []
    for view in views:
        ViewRenderer(store, SPEC).render(view)
    assert drawn == [7, 190]


def test_a_region_is_drawn_as_finely_as_the_whole_page_in_full(store: ImageStore) -> None:
    document = store.documents.put(report(1, {1: "Total: 48.10"}))
    ref = store.ref(document.page(1))
    view = View(ref, region=Region(100, 480, 500, 560))
    renderer = ViewRenderer(store, SPEC)
    part, whole = renderer.render(view), store.pixels(ref.id).crop(view.box)
    assert part.size == view.size(SPEC)
    difference = ImageChops.difference(part.convert("L"), whole.convert("L").resize(part.size))
    assert ImageStat.Stat(difference).mean[0] < 4
    assert dark(part) > 1


@given(
    page=st.none() | st.integers(1, 999_999),
    turn=st.sampled_from([0, 90, 180, 270]),
    scale=st.sampled_from([1.0, 0.5, 0.25, 0.0625]),
    region=st.none() | st.just(Region(1, 20, 300, 1000)),
)
def test_the_url_of_a_view_of_a_page_has_one_form(
    page: int | None, turn: int, scale: float, region: Region | None
) -> None:
    name = ImageName("ab" * 32, page, turn)
    assert ImageName.parse(str(name)) == name
    from vtagent.images import ImageRef

    view = View(ImageRef("ab" * 32, 9, 9, "", page, turn), scale, region)
    assert View.parse_url(view.url) == (str(name), view.scale, view.region)
    assert view.url.startswith(view.ref.url)


@pytest.mark.parametrize(
    "query",
    [
        "?page=0",
        "?page=03",
        "?page=-1",
        "?page=1&page=2",
        "?turn=90&page=2",
        "?turn=0",
        "?turn=45",
        "?page=1&",
        "?page=1?scale=0.5",
        "?scale=0.5&page=1",
        "?page=1000000",
        "?page=１",
    ],
)
def test_any_other_form_is_refused(query: str) -> None:
    with pytest.raises(ImageRefused):
        View.parse_url("vtimg://sha256/" + "ab" * 32 + query)
    assert "ab" * 32 + query not in MemoryImageStore()


def test_pages_that_are_not_there_are_named(store: ImageStore) -> None:
    document = store.documents.put(report(3))
    with pytest.raises(ImageNotFound, match="no page 4: the document has 3 pages, counted from 1"):
        store.ref(document.page(4))
    image = store.put(tiff(solid()))
    with pytest.raises(ImageNotFound, match="no page 2: the document has one page"):
        store.ref(f"{image.sha256}?page=2")


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_a_page_stands_as_the_file_turns_it(store: ImageStore, rotate: int) -> None:
    """The words are where the picture shows them, too."""
    page = PdfPage([(72, 770, 24, "Top"), (72, 72, 24, "Bottom")], rotate=rotate)
    document = store.documents.put(pdf([page]))
    ref = store.ref(document.page(1))
    assert (ref.width < ref.height) == (rotate in (0, 180))
    for word in store.documents.text(ref.id).words:
        part = store.part(ref.id, region_around([word]).to_pixels(ref.width, ref.height), (100, 100))
        assert dark(part) > 20
    top = next(word for word in store.documents.text(ref.id).words if word.text == "Top")
    assert {0: top.top < 0.1, 90: top.left > 0.9, 180: top.top > 0.9, 270: top.left < 0.1}[rotate]


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize("kind", ["pdf", "tiff", "image"])
def test_a_turned_page_is_the_page_turned(store: ImageStore, turn: int, kind: str) -> None:
    picture = quarters((640, 480))
    if kind == "pdf":
        base = store.documents.put(pdf([PdfPage(image=picture, size=(640, 480))])).page(1)
    elif kind == "tiff":
        base = store.documents.put(tiff(solid(), picture)).page(2)
    else:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        base = store.put(buffer.getvalue()).sha256
    name = ImageName.parse(base)
    turned = str(ImageName(name.sha256, name.page, turn))
    upright, ref = store.ref(base), store.ref(turned)
    assert (ref.width, ref.height) == (
        (upright.height, upright.width) if turn != 180 else (upright.width, upright.height)
    )
    expected = {90: [BLUE, RED, WHITE, GREEN], 180: [WHITE, BLUE, GREEN, RED], 270: [GREEN, WHITE, RED, BLUE]}[turn]
    renderer = ViewRenderer(store, SPEC)
    assert colours(renderer.render(View(ref))) == expected
    assert colours(renderer.render(View(ref, region=Region(0, 0, 500, 500)))) == [expected[0]] * 4
    assert renderer.encode(View(ref)).mime_type == "image/png"


@given(st.sampled_from([0, 90, 180, 270]), st.tuples(*[st.integers(0, 64)] * 4))
def test_turning_a_word_back_gives_the_word(turn: int, sides: tuple[int, int, int, int]) -> None:
    left, right, top, bottom = (side / 64 for side in (*sorted(sides[:2]), *sorted(sides[2:])))
    word = Word("a", left, top, right, bottom, 3)
    assert word.turned(turn).turned((360 - turn) % 360) == word


@given(st.lists(st.tuples(*[st.floats(-0.1, 1.1)] * 4), min_size=1, max_size=5))
def test_the_region_around_words_holds_them(places: list[tuple[float, float, float, float]]) -> None:
    words = [Word("a", *place) for place in places]
    region = region_around(words)
    for word in words:
        for low, value, high in ((region.x1, word.left, region.x2), (region.y1, word.top, region.y2)):
            assert low <= max(0, min(1000, 1000 * value)) + 1
            assert min(1, max(0, value)) * 1000 <= high or value >= word.right or value >= word.bottom
    assert region.x1 < region.x2
    assert region.y1 < region.y2


def test_pages_of_a_tiff_are_images_each_of_its_own_size(store: ImageStore) -> None:
    document = store.documents.put(tiff(solid((64, 48), RED), solid((320, 200), GREEN), solid((48, 64), BLUE)))
    refs = [store.ref(document.page(number)) for number in (1, 2, 3)]
    assert [(ref.width, ref.height) for ref in refs] == [(64, 48), (320, 200), (48, 64)]
    assert [store.pixels(ref.id).getpixel((0, 0)) for ref in refs] == [RED, GREEN, BLUE]
    assert store.documents.text(refs[0].id).source == "none"


def test_labels_of_pages_stand_beside_their_numbers(store: ImageStore) -> None:
    data = pdf([PdfPage()] * 4, labels="0 << /S /r >> 2 << /S /D /P (A-) >>")
    document = store.documents.put(data)
    assert [store.documents.label(document.page(number)) for number in range(1, 5)] == ["i", "ii", "A-1", "A-2"]
    plain = store.documents.put(report(2))
    assert store.documents.label(plain.page(2)) == "2"


def test_words_of_the_text_layer_have_their_lines_and_places(store: ImageStore) -> None:
    document = store.documents.put(pdf([PdfPage([(72, 700, 12, "Total amount: 48.10"), (72, 100, 12, "Thank you")])]))
    text = store.documents.text(document.page(1))
    assert text.source == "text"
    assert text.plain == "Total amount: 48.10\nThank you"
    total, *_, thanks, _you = text.words
    assert abs(total.left - 72 / A4[0]) < 0.002
    assert abs((total.top + total.bottom) / 2 - (842 - 704) / 842) < 0.01
    assert [word.text for word in text.within(Region(0, 500, 1000, 1000))] == ["Thank", "you"]
    assert thanks.line == total.line + 1


def test_a_zoom_agent_looks_at_a_page_as_at_any_image(store: ImageStore) -> None:
    document = store.documents.put(report(9, {7: "Total: 48.10"}))
    block = View(store.ref(document.page(7))).block()
    call = '<tool_call>{"name": "zoom_image", "arguments": {"region": [100, 480, 500, 560]}}</tool_call>'
    model = ScriptedChat(lines=[call, "<answer>48.10</answer>"])
    agent = create_zoom_agent(model, image_store=store, vision=SPEC)
    result = agent.invoke({"messages": [HumanMessage([block, {"type": "text", "text": "What is the total?"}])]})
    assert result["answer"] == "48.10"
    ref = store.ref(document.page(7))
    assert [view["url"] for view in result["views"]] == [f"{ref.url}&scale=0.5", f"{ref.url}&region=100,480,500,560"]
    assert result["usage"]["full_visual_tokens"] == View(ref).tokens(SPEC)


def test_two_pages_of_a_document_are_two_images(store: ImageStore) -> None:
    document = store.documents.put(report(9))
    blocks = [View(store.ref(document.page(number)), 0.25).block() for number in (3, 4)]
    call = '<tool_call>{"name": "zoom_image", "arguments": {"image": 2}}</tool_call>'
    agent = create_zoom_agent(ScriptedChat(lines=[call, "<answer>4</answer>"]), image_store=store, vision=SPEC)
    result = agent.invoke({"messages": [HumanMessage([*blocks, {"type": "text", "text": "Which?"}])]})
    assert [view["url"] for view in result["views"]][-1] == store.ref(document.page(4)).url
    assert result["usage"]["full_visual_tokens"] == 2 * View(store.ref(document.page(3))).tokens(SPEC)


def test_a_page_in_a_message_is_known_by_its_reference(store: ImageStore) -> None:
    document = store.documents.put(report(2))
    message = HumanMessage([{"type": "image_url", "image_url": {"url": store.ref(document.page(2)).url}}])
    [changed] = ingest([message], store)
    assert changed.content[0]["url"] == store.ref(document.page(2)).url  # type: ignore[index]
    lost = HumanMessage([{"type": "image", "url": store.ref(document.page(2)).url.replace("page=2", "page=3")}])
    with pytest.raises(ImageNotFound, match="no page 3"):
        ingest([lost], store)


def test_garbage_collection_knows_pages(tmp_path: Path) -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    store = DirectoryImageStore(tmp_path)
    used, unused = store.documents.put(report(2)), store.documents.put(report(3))
    saver = InMemorySaver()
    agent = create_zoom_agent(
        ScriptedChat(lines=["<answer>2</answer>"]), image_store=store, vision=SPEC, checkpointer=saver
    )
    message = HumanMessage([View(store.ref(used.page(2))).block(), {"type": "text", "text": "Which page?"}])
    agent.invoke({"messages": [message]}, {"configurable": {"thread_id": "1"}})
    collected = collect_garbage(store, images_in_use(saver), grace=0)
    assert collected.deleted == (unused.sha256,)
    assert used.page(1) in store
    assert unused.page(1) not in store
    with pytest.raises(ImageNotFound):
        store.ref(unused.page(1))


def test_a_document_is_checked_against_its_name(tmp_path: Path) -> None:
    document = DirectoryImageStore(tmp_path).documents.put(report(2))
    file = tmp_path / document.sha256[:2] / document.sha256
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageTampered):
        DirectoryImageStore(tmp_path).ref(document.page(1))


# What a stranger sends


def encrypted() -> bytes:
    """A PDF that asks for a password: the keys are those of no password at all."""
    key = "(" + "x" * 32 + ")"
    bodies = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 0 /Kids [] >>"]
    bodies.append(f"<< /Filter /Standard /V 1 /R 2 /O {key} /U {key} /P -44 >>".encode())
    return written(bodies, "/Encrypt 3 0 R /ID [<00> <00>]")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"%PDF-1.7\nhello", "cannot be opened"),
        (report(30)[:3000], "cannot be opened"),
        (pdf([]), "it has no pages"),
        (encrypted(), "encrypted: save it without a password"),
        (b"\x89PNG\r\n\x1a\n", "neither a PDF nor a TIFF"),
        (b"II*\0\x08\0\0\0", "outside the file"),
        (b"II*\0\0\0\0\0", "no page"),
        (tiff(solid(), solid())[:100], "TIFF"),
    ],
)
def test_what_is_no_document_is_refused_with_a_reason(store: ImageStore, data: bytes, why: str) -> None:
    with pytest.raises(UnreadableImage, match=why):
        store.documents.put(data)
    if isinstance(store, DirectoryImageStore):
        assert [file for file in store.path.rglob("*") if file.is_file()] == []


def test_a_damaged_pdf_says_that_pages_may_be_missing(store: ImageStore) -> None:
    data = report(30)
    document = store.documents.put(data.replace(b"startxref\n", b"startxref\n9"))
    assert document.pages == 30
    assert document.damage == "the PDF is damaged: pages may be missing"
    assert store.documents.put(data).damage is None


def test_ten_thousand_pages_cost_no_more_than_the_one_that_is_looked_at(store: ImageStore) -> None:
    document = store.documents.put(pdf([PdfPage()] * 9_999 + [PdfPage([(72, 400, 10, "The last")])]))
    assert document.pages == 10_000
    assert store.documents.text(document.page(10_000)).plain == "The last"
    few = MemoryImageStore(limits=ImageLimits(documents=DocumentLimits(max_pages=9_999)))
    with pytest.raises(ImageTooLarge, match="10000 pages; at most 9999 are allowed: split it"):
        few.documents.put(store.get(document.sha256))


def test_a_huge_page_is_shown_within_the_limits(store: ImageStore) -> None:
    """At 200 dots per inch, it would have 1,600 megapixels."""
    document = store.documents.put(pdf([PdfPage([(72, 400, 900, "Big")], size=(14_400, 14_400))]))
    ref = store.ref(document.page(1))
    assert 60_000_000 < ref.width * ref.height <= store.limits.max_pixels
    assert dark(ViewRenderer(store, SPEC).render(View(ref, 0.25))) > 0


def test_a_page_of_200_megapixels_in_a_tiff_does_not_spoil_the_others(store: ImageStore) -> None:
    document = store.documents.put(tiff(solid((14_200, 14_200), 1, "1"), solid((64, 48))))
    with pytest.raises(ImageTooLarge, match="14200x14200"):
        store.ref(document.page(1))
    assert store.ref(document.page(2)).width == 64


@pytest.mark.parametrize("size", [(0.001, 842), (1, 842 * 300)])
def test_pages_that_no_model_can_look_at_are_refused(store: ImageStore, size: tuple[float, float]) -> None:
    document = store.documents.put(pdf([PdfPage(size=size), PdfPage()]))
    with pytest.raises((ImageTooLarge, UnreadableImage)):
        store.ref(document.page(1))
    assert store.ref(document.page(2)).width > 1000


def test_scripts_files_and_links_are_left_alone(store: ImageStore, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    link = f"<< /S /URI /URI (file://{mark}) >>"
    script = "<< /S /JavaScript /JS (this.addField('x', 'text', 0, [0, 0, 99, 99]); app.alert(1);) >>"
    launch = f"<< /S /Launch /F (/usr/bin/touch) /Win << /F (/usr/bin/touch) /P ({mark}) >> >>"
    annotation = f"/Annots [<< /Type /Annot /Subtype /Link /Rect [0 0 500 500] /A {link} >>] /AA << /O {launch} >>"
    objects = {"file": stream(b"attached", "/Type /EmbeddedFile")}
    catalog = f"/OpenAction {script} /Names << /EmbeddedFiles << /Names [(a) << /EF << /F {{file}} 0 R >> >>] >> >>"
    data = pdf([PdfPage([(72, 700, 12, "Harmless")], extra=annotation)], catalog=catalog, objects=objects)
    document = store.documents.put(data)
    assert store.documents.text(document.page(1)).plain == "Harmless"
    assert dark(ViewRenderer(store, SPEC).render(View(store.ref(document.page(1)), 0.5))) > 0
    assert not mark.exists()


def busy() -> bytes:
    """A page that takes minutes to draw."""
    drawing = "0 0 m " + "".join(f"{i * 7919 % 595} {i * 104729 % 842} l " for i in range(200_000)) + "f*\n"
    return pdf([PdfPage(drawing=drawing * 5), PdfPage([(72, 700, 12, "Next")])])


def test_a_page_that_takes_too_long_ends_and_the_next_is_read() -> None:
    store = MemoryImageStore(limits=ImageLimits(documents=DocumentLimits(max_seconds=0.4)))
    document = store.documents.put(busy())
    ref = store.ref(document.page(1))
    with pytest.raises(ImageTooLarge, match=r"more than 0\.4 seconds: print it to a new file"):
        ViewRenderer(store, SPEC).render(View(ref))
    assert store.documents.text(document.page(2)).plain == "Next"


def test_a_reader_that_was_killed_is_started_again(store: ImageStore) -> None:
    document = store.documents.put(report(2))
    source = store.documents.source(document.sha256)
    process = source._process._process  # type: ignore[attr-defined]
    process.kill()
    process.wait()
    assert store.documents.text(document.page(2)).plain.startswith("Chapter 2")


def test_a_document_is_opened_again_when_others_have_taken_its_place(store: ImageStore) -> None:
    documents = [store.documents.put(report(count)) for count in range(1, 8)]
    for document in documents:
        assert store.documents.text(document.page(document.pages)).plain.startswith(f"Chapter {document.pages}\n")
    assert len(store.documents._open) <= 4


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the list of processes from /proc")
def test_no_process_stays_behind() -> None:
    store = MemoryImageStore()
    document = store.documents.put(report(2))
    pid = store.documents.source(document.sha256)._process._process.pid  # type: ignore[attr-defined]
    assert Path(f"/proc/{pid}").exists()
    del store
    gc.collect()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_threads_read_one_document_together(store: ImageStore) -> None:
    from concurrent.futures import ThreadPoolExecutor

    document = store.documents.put(report(20))
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: store.documents.text(document.page(n)).plain, range(1, 21)))
    assert [text.splitlines()[0] for text in texts] == [f"Chapter {n}" for n in range(1, 21)]


def test_a_child_process_does_not_take_the_parents_replies() -> None:
    code = (
        "import os, sys\n"
        "from tests.pdfs import report\n"
        "from vtagent.images import MemoryImageStore\n"
        "store = MemoryImageStore(); document = store.documents.put(report(2))\n"
        "child = os.fork()\n"
        "text = store.documents.text(document.page(2)).plain.splitlines()[0]\n"
        "assert text == 'Chapter 2', text\n"
        "if child == 0: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert store.documents.text(document.page(1)).plain.startswith('Chapter 1')\n"
    )
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_fix_is_named() -> None:
    from vtagent.extras import missing_extra

    code = (
        "import sys; sys.modules['pypdfium2'] = None\n"
        "import importlib.util; importlib.util.find_spec = lambda name: None\n"
        "from vtagent.images import MemoryImageStore\n"
        "MemoryImageStore().documents.put(b'%PDF-1.7')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert "No module named 'pypdfium2'" in done.stderr
    error = ModuleNotFoundError("No module named 'pypdfium2'", name="pypdfium2")
    assert missing_extra(error) == "this needs an extra: pip install 'vtagent[docs]'"


def test_a_picture_is_no_document_and_a_document_no_picture(store: ImageStore) -> None:
    buffer = io.BytesIO()
    image = solid()
    ImageDraw.Draw(image).line((0, 0, 9, 9))
    image.save(buffer, "PNG")
    picture, document = store.put(buffer.getvalue()), store.documents.put(report(1))
    with pytest.raises(UnreadableImage, match="neither a PDF nor a TIFF"):
        store.ref(f"{picture.sha256}?page=1")
    with pytest.raises(UnreadableImage, match="PDF"):
        store.ref(document.sha256)
    with pytest.raises(UnreadableImage, match="PDF"):
        store.put(store.get(document.sha256))
