"""The command `vtagent docqa`: questions about documents, one, many from a file, or one after the other."""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Group
from rich.table import Table
from rich.text import Text

from vtagent.errors import DataError, ModelError, VtagentError, one_line
from vtagent.graphs.document_qa.graph import DocumentAgent, create_document_agent
from vtagent.graphs.document_qa.state import DocumentAnswer, DocumentContext
from vtagent.images import ImageStore, MemoryImageStore
from vtagent.pages.evidence import save_marked
from vtagent.pages.library import DocumentRecord, Library, PageAt, parse_pages, take_in_paths
from vtagent.pages.ocr import Ocr, find_ocr
from vtagent.regions import Region
from vtagent.terminal import Output, printable, spinner
from vtagent.user_input import check_question

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from vtagent.eyes import Vision

Load = Callable[[argparse.Namespace, ImageStore], "tuple[str, BaseChatModel, Vision]"]


@dataclass(frozen=True)
class _Session:
    """What all questions of a command share."""

    agent: DocumentAgent
    documents: list[DocumentRecord]
    pages: list[int] | None
    context: DocumentContext
    store: ImageStore
    ocr: Ocr | None

    def ask(self, question: str, *, thread: str = "0") -> DocumentAnswer:
        given: Any = {"messages": [HumanMessage(question)], "documents": self.documents, "pages": self.pages}
        limit = 10 + 2 * self.context.max_pages  # two steps of the graph a look
        config: Any = {"recursion_limit": limit, "configurable": {"thread_id": thread}}
        return DocumentAnswer.model_validate(self.agent.invoke(given, config, context=self.context)["answer"])


def docqa(options: argparse.Namespace, load: Load) -> None:
    """Answers questions about the documents in `options.files`.

    Args:
        options: The parsed command line; the last of `files` is the question, unless `--batch` or `--chat` is there.
        load: Loads the model.

    Raises:
        DataError: The command line, a file of questions or a page number cannot be used.
        ImageError: A document cannot be used.
        ModelError: The model failed.
    """
    files, question = _split(options)
    rows = _questions(options.batch) if options.batch else []
    ocr = find_ocr(options.ocr)
    store = MemoryImageStore()
    with spinner("opening"):
        documents = take_in_paths(files, store)
    library = Library(documents, store, ocr=ocr)
    for record in documents:
        if record["damage"]:
            print(f"vtagent docqa: {printable(record['name'])}: {record['damage']}", file=sys.stderr)
    pages = None if options.page is None else _numbers(options.page, library)
    _, model, vision = load(options, store)
    session = _Session(
        agent=create_document_agent(
            model,
            image_store=store,
            vision=vision,
            ocr=ocr,
            checkpointer=InMemorySaver() if options.chat else None,
        ),
        documents=documents,
        pages=pages,
        context=DocumentContext(
            max_pages=options.max_pages,
            max_visual_tokens=options.max_visual_tokens,
            max_seconds=options.max_seconds,
            max_zooms=options.max_zooms,
            zoom_bias=options.zoom_bias,
        ),
        store=store,
        ocr=ocr,
    )
    if options.batch:
        _batch(session, rows, options)
        return
    if question is not None:
        _one(session, question, options)
    if options.chat:
        for line in sys.stdin:
            if line.strip():
                _one(session, check_question(line.strip()), options)


def _split(options: argparse.Namespace) -> tuple[list[Path], str | None]:
    """The files and the question.

    Raises:
        DataError: One of them is missing.
    """
    words: list[str] = options.files
    if options.batch and options.chat:
        raise DataError("--batch and --chat exclude each other")
    if options.batch or options.chat:
        return [Path(word) for word in words], None
    if len(words) < 2:
        raise DataError('name at least one file, then the question in quotes: vtagent docqa report.pdf "Who signed?"')
    return [Path(word) for word in words[:-1]], check_question(words[-1])


def _numbers(text: str, library: Library) -> list[int]:
    """The pages that `--page` means.

    Raises:
        DataError: There are several documents, or there is no such page.
    """
    if len(library.records) != 1:
        raise DataError("--page needs exactly one document: pages of several have the same numbers")
    ranges = parse_pages(text)
    if (last := max(last for _, last in ranges)) > len(library):
        raise DataError(f"there is no page {last}: {library.records[0]['name']} has {len(library)}")
    return list(dict.fromkeys(page for first, last in ranges for page in range(first, last + 1)))


def _one(session: _Session, question: str, options: argparse.Namespace) -> None:
    """Asks one question and prints the answer."""
    with spinner("looking"):
        answer = session.ask(question)
    saved = []
    if options.save_evidence and answer.evidence:
        saved = _save(answer, Library(session.documents, session.store, ocr=session.ocr), options.save_evidence)
    if options.json:
        report = {"question": question, **answer.model_dump(mode="json")}
        print(
            json.dumps(report | ({"files": [str(path) for path in saved]} if options.save_evidence else {})), flush=True
        )
        return
    show_answer(answer, saved)


def _save(answer: DocumentAnswer, library: Library, folder: Path) -> list[Path]:
    """Saves each cited page with its places in boxes."""
    marks: dict[PageAt, list[Region]] = {}
    for place in answer.evidence:
        document = next(n for n, record in enumerate(library.records) if record["name"] == place.document)
        marks.setdefault(PageAt(document, place.page), []).append(Region(*place.region))
    return save_marked(library, marks, folder)


def show_answer(answer: DocumentAnswer, saved: list[Path]) -> None:
    """Prints an answer with its places, what is odd, and what it cost."""
    head = Text(printable(answer.text), style="bold green") if answer.found else Text("not found", style="bold red")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    found_by = {
        "text": "by the text layer",
        "ocr": "by OCR",
        "region": "where the model zoomed",
        "page": "somewhere on the page",
    }
    for place in answer.evidence:
        label = f" ({printable(place.label)})" if place.label != str(place.page) else ""
        where = "" if place.found_by == "page" else f", {place.region}"
        rows.add_row(
            "place",
            Text(f"{printable(place.document)}, page {place.page}{label}{where}, {found_by[place.found_by]}"),
        )
    for note in answer.notes:
        rows.add_row("note", Text(printable(note), style="yellow"))
    if answer.stop:
        rows.add_row("stopped", Text(f"at its limit, {answer.stop}; raise it to look on", style="yellow"))
    usage = answer.usage
    share = f" ({usage.visual_tokens / usage.full_visual_tokens:.1%} of it)" if usage.full_visual_tokens else ""
    rows.add_row("pages", Text(f"{usage.pages} looked at, {usage.views} views"))
    rows.add_row(
        "tokens",
        Text(f"{usage.visual_tokens} visual tokens; all pages at once cost {usage.full_visual_tokens}{share}"),
    )
    rows.add_row("time", Text(f"{usage.seconds:.2f} s"))
    for path in saved:
        rows.add_row("saved", Text(str(path)))
    Output(highlight=False).print(Group(head, Text(), rows))


@dataclass(frozen=True)
class _Row:
    """A line of a file of questions."""

    number: int
    question: str
    given: dict[str, Any]


def _questions(path: Path) -> list[_Row]:
    """The questions of a JSON Lines file.

    Raises:
        DataError: A line has no question; the text names it.
    """
    try:
        lines = re.split(r"\r?\n", path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except ValueError:
            given = None
        if not isinstance(given, dict) or not isinstance(given.get("question"), str):
            raise DataError(f'{path}, line {number}: write one object a line, such as {{"question": "Who signed?"}}')
        rows.append(_Row(number, check_question(given["question"]), given))
    if not rows:
        raise DataError(f"{path} has no question")
    return rows


def _batch(session: _Session, rows: list[_Row], options: argparse.Namespace) -> None:
    """Asks all questions that have no answer yet; each answer is one line of `--out`, written when it is there.

    Raises:
        DataError: The file of answers belongs to other questions.
        ModelError: Some questions could not be answered; the same command tries these again.
    """
    out: Path = options.out or options.batch.with_suffix(".answers.jsonl")
    done = set(_answered(out, rows))
    left = [row for row in rows if row.number not in done]
    failed = 0
    if done:
        print(f"{len(done)} of {len(rows)} questions have an answer in {out}; going on", file=sys.stderr)
    lock = threading.Lock()

    def ask(row: _Row) -> dict[str, Any]:
        head = {**row.given, "line": row.number}
        try:
            return {**head, **session.ask(row.question, thread=str(row.number)).model_dump(mode="json")}
        except VtagentError as error:
            return {**head, "error": one_line(error)}

    with closing(_appending(out)) as file, ThreadPoolExecutor(options.workers) as pool:
        futures = [pool.submit(ask, row) for row in left]
        try:
            for finished, future in enumerate(as_completed(futures), len(done) + 1):
                result = future.result()
                failed += "error" in result
                with lock:
                    file.write(json.dumps(result).encode() + b"\n")
                    file.flush()
                print(f"{finished}/{len(rows)} questions", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(out)
    if failed:
        raise ModelError(f"{failed} of {len(rows)} questions failed, see {out}; the same command tries them again")


def _answered(out: Path, rows: list[_Row]) -> Iterator[int]:
    """The numbers of the lines of questions that have an answer.

    Raises:
        DataError: The file belongs to other questions.
    """
    asked = {row.number: row.question for row in rows}
    for line in out.read_bytes().split(b"\n")[:-1] if out.exists() else []:
        try:
            result = json.loads(line)
            number, question = result["line"], result["question"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{out} holds no answers of vtagent docqa: name another file with --out") from None
        if asked.get(number) != question:
            raise DataError(f"{out} belongs to other questions: name another file with --out")
        if "error" not in result:
            yield number


def _appending(out: Path) -> IO[bytes]:
    """Opens a file to append to, without a last line that a kill has cut off."""
    file = out.open("ab+")
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(0, 2)
    return file
