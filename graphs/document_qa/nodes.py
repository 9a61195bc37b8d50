"""The nodes of the document graph: which pages to look at, looking at them, and where the answer stands."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from langgraph.runtime import Runtime

from vtagent.abstention import abstains
from vtagent.errors import ImageError
from vtagent.eyes import Eyes, eyes_of
from vtagent.eyes.lookup import EyesGiven
from vtagent.graphs.document_qa.state import (
    DocumentAnswer,
    DocumentContext,
    DocumentState,
    DocumentStop,
    DocumentUsage,
    Evidence,
    Look,
)
from vtagent.graphs.state import ZoomContext
from vtagent.graphs.zoom import ZoomAgent
from vtagent.images import ImageStore
from vtagent.numbering import label_of
from vtagent.pages.attached import take_in_message
from vtagent.pages.library import Library, PageAt
from vtagent.pages.ocr import Ocr
from vtagent.pages.places import place_of
from vtagent.pages.search import PageSearch, page_of
from vtagent.regions import SCALE, Region
from vtagent.views import View

__all__ = ["Cite", "DocumentParts", "Looking", "Shortlist", "after_look"]


@dataclass(frozen=True)
class DocumentParts:
    """What the nodes share."""

    agent: ZoomAgent
    """Looks at pages."""
    store: ImageStore
    model: object
    """The model of runs that bring none."""
    override: EyesGiven
    """What the caller knows better of any model's eyes."""
    ocr: Ocr | None
    """Reads pages that have no text layer; None leaves them without words."""
    retriever: BaseRetriever | None
    """Finds pages; None: by their words."""

    def eyes(self, model: object) -> Eyes:
        """How the model of a run sees; None: the parts' own."""
        return eyes_of(self.model if model is None else model, override=self.override, warn=False)

    def library(self, state: DocumentState) -> Library:
        """The documents of a conversation."""
        return Library(state.get("documents") or [], self.store, ocr=self.ocr)


class Shortlist:
    """Orders the pages: those that the retriever or the words of the question point to, then those without words."""

    def __init__(self, parts: DocumentParts) -> None:
        self._parts = parts

    def __call__(self, state: DocumentState, runtime: Runtime[DocumentContext]) -> dict[str, Any]:
        """Begin a run.

        Raises:
            ValueError: There is no question, or no document.
            ImageError: A file in the message cannot be used.
        """
        began = time.perf_counter()
        settings = runtime.context or DocumentContext()
        question, known = question_of(state["messages"]), state.get("documents") or []
        attached, message = take_in_message(state["messages"][-1], self._parts.store, known=known)
        library = Library([*known, *attached], self._parts.store, ocr=self._parts.ocr)
        chosen = state.get("pages")
        allowed = list(library) if chosen is None else [library.at_number(number) for number in chosen]
        if not allowed:
            raise ValueError(
                "there is no page to look at: give documents, as take_in_paths returns them, or files in the message"
            )
        by, ranked, blank = self._ranked(library, allowed, question)
        if ranked:
            others = [at for at in allowed if at not in set(ranked) | set(blank)]
            queue, together = [*ranked, *blank, *others], 1
        else:
            queue, together = [*blank, *(at for at in allowed if at not in set(blank))], settings.overview_pages
        numbers = [library.number(at) for at in queue]
        step = {"step": "shortlist", "by": by, "pages": numbers[: len(ranked) or together]}
        runtime.stream_writer({"event": "shortlist", **step})
        usage = DocumentUsage(
            full_visual_tokens=self._full(library, allowed, settings), seconds=time.perf_counter() - began
        )
        return {
            "documents": library.records,
            "messages": [] if message is None else [message],
            "queue": numbers,
            "together": 1 if len(allowed) == 1 else together,
            "looks": [],
            "usage": usage.model_dump(),
            "trail": [step],
            "stop": None,
            "answer": None,
        }

    def _ranked(
        self, library: Library, allowed: Sequence[PageAt], question: str
    ) -> tuple[str, list[PageAt], list[PageAt]]:
        """Who has ranked the pages, the ranked ones, and those that have no words to be ranked by."""
        if self._parts.retriever is not None:
            found = [page_of(result, library) for result in self._parts.retriever.invoke(question)]
            return "retriever", [at for at in dict.fromkeys(found) if at is not None and at in set(allowed)], []
        if len(allowed) == 1:
            return "only page", list(allowed), []
        search = PageSearch(library=library, pages=list(allowed))
        found = [page_of(result, library) for result in search.invoke(question)]
        ranked = [at for at in found if at is not None]
        return ("words" if ranked else "looks"), ranked, search.blank

    def _full(self, library: Library, allowed: Sequence[PageAt], settings: DocumentContext) -> int:
        """Visual tokens of all pages at full resolution; a page that cannot be opened costs nothing."""
        total = 0
        vision = self._parts.eyes(settings.model).vision
        for at in allowed:
            try:
                total += View(library.store.ref(library.id(at))).tokens(vision)
            except ImageError:  # it is named when it is looked at
                continue
        return total


class Looking:
    """Shows the next pages to the model, small, with the question; the model zooms or answers."""

    def __init__(self, parts: DocumentParts) -> None:
        self._parts = parts

    def __call__(self, state: DocumentState, runtime: Runtime[DocumentContext]) -> dict[str, Any]:
        """Look at the next pages of the queue.

        Raises:
            ModelError: The model failed.
        """
        began = time.perf_counter()
        settings = runtime.context or DocumentContext()
        library, usage = self._parts.library(state), DocumentUsage(**state["usage"])
        count = max(1, min(state["together"], settings.max_pages - usage.pages))
        numbers, queue = state["queue"][:count], state["queue"][count:]
        blocks: list[dict[str, Any]] = []
        shown: list[int] = []
        broken: list[str] = []
        for number in numbers:
            at = library.at_number(number)
            try:
                blocks.append(View(library.ref(at)).block())
                shown.append(number)
            except ImageError as error:
                broken.append(f"{library.title(at)} cannot be looked at: {error}")
        step: dict[str, Any] = {"step": "look", "pages": shown, "broken": broken}
        look = Look(pages=shown, answer=None, views=[])
        if blocks:
            scale = settings.scale if len(blocks) == 1 else settings.overview_scale
            left = (
                None if settings.max_visual_tokens is None else max(0, settings.max_visual_tokens - usage.visual_tokens)
            )
            question = HumanMessage([*numbered(blocks), {"type": "text", "text": question_of(state["messages"])}])
            context = ZoomContext(
                settings.model,
                scale=scale,
                max_zooms=settings.max_zooms,
                zoom_bias=settings.zoom_bias,
                max_visual_tokens=left,
            )
            result = self._parts.agent.invoke({"messages": [question]}, context=context)
            look["answer"], look["views"], cost = result["answer"], result["views"], result["usage"]
            step |= {"answer": look["answer"], "zooms": cost["zooms"], "visual_tokens": cost["visual_tokens"]}
            usage = usage.model_copy(
                update={
                    "pages": usage.pages + len(shown),
                    "views": usage.views + len(look["views"]),
                    **{
                        name: getattr(usage, name) + cost[name]
                        for name in ("visual_tokens", "input_tokens", "output_tokens", "turns")
                    },
                }
            )
        usage = usage.model_copy(update={"seconds": usage.seconds + time.perf_counter() - began})
        runtime.stream_writer({"event": "look", **step})
        over = spent(usage, settings) if queue and not answers(look) else None
        return {
            "queue": queue,
            "looks": [*state["looks"], look],
            "usage": usage.model_dump(),
            "trail": [*state["trail"], step],
            "stop": over,
        }


def numbered(images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of several images, each after its number; one image alone needs none."""
    if len(images) < 2:
        return list(images)
    labels = [{"type": "text", "text": label_of(number)} for number in range(1, len(images) + 1)]
    return [block for pair in zip(labels, images, strict=True) for block in pair]


def after_look(state: DocumentState) -> Literal["look", "cite"]:
    """Whether to go on: until a look has an answer, no page is left, or a budget is spent."""
    return "cite" if answers(state["looks"][-1]) or not state["queue"] or state["stop"] else "look"


class Cite:
    """Finds where the answer stands and ends the run with a `DocumentAnswer` and a message."""

    def __init__(self, parts: DocumentParts) -> None:
        self._parts = parts

    def __call__(self, state: DocumentState, runtime: Runtime[DocumentContext]) -> dict[str, Any]:
        """End a run."""
        began = time.perf_counter()
        library, look = self._parts.library(state), state["looks"][-1]
        found = answers(look)
        text = look["answer"] or ""
        evidence, notes = self._places(library, look, question_of(state["messages"])) if found else ([], [])
        notes = [note for step in state["trail"] for note in step.get("broken", [])] + notes
        usage = DocumentUsage(**state["usage"])
        usage = usage.model_copy(update={"seconds": round(usage.seconds + time.perf_counter() - began, 3)})
        step = {"step": "cite", "found": found, "places": len(evidence)}
        answer = DocumentAnswer(
            text=text if found else "",
            found=found,
            evidence=evidence,
            notes=notes,
            stop=state["stop"],
            usage=usage,
            trail=[*state["trail"], step],
        )
        runtime.stream_writer({"event": "answer", **answer.model_dump(exclude={"trail"})})
        message = AIMessage(in_words(answer), response_metadata={"document_answer": answer.model_dump(mode="json")})
        return {
            "messages": [message],
            "answer": answer.model_dump(mode="json"),
            "usage": usage.model_dump(),
            "trail": answer.trail,
        }

    def _places(self, library: Library, look: Look, question: str) -> tuple[list[Evidence], list[str]]:
        """The places of an answer and of its parts, and what is odd about them."""
        evidence: list[Evidence] = []
        notes: list[str] = []
        for said in parts_of(look["answer"] or ""):
            place = self._place(library, look, said, question)
            if place is not None:
                evidence.append(place)
        for place in evidence:
            at = library.at_number(self._number(library, place))
            text = library.text(at)
            if place.found_by in ("region", "page") and text.source == "text":
                notes.append(f"the text layer of {library.title(at)} does not say {place.said!r:.80}; the picture does")
        return evidence, notes

    @staticmethod
    def _number(library: Library, place: Evidence) -> int:
        document = next(n for n, record in enumerate(library.records) if record["name"] == place.document)
        return library.number(PageAt(document, place.page))

    def _place(self, library: Library, look: Look, said: str, question: str) -> Evidence | None:
        """Where a part of the answer stands: in the words of a page, else where the model zoomed, else on the page."""
        views = views_by_page(look, library)
        zoomed = [number for number in look["pages"] if len(views[number]) > 1]
        for number in [*reversed(zoomed), *(n for n in look["pages"] if n not in zoomed)]:
            at = library.at_number(number)
            region = _region_of(views[number])
            text = library.text(at)
            place = place_of(said, text, within=region, question=question)
            if place is not None:
                found_by: Literal["text", "ocr"] = "ocr" if text.source == "ocr" else "text"
                return _evidence(library, at, place, found_by, said, views[number])
            if zoomed or len(look["pages"]) == 1:
                return _evidence(
                    library,
                    at,
                    region or Region(0, 0, SCALE, SCALE),
                    "region" if region else "page",
                    said,
                    views[number],
                )
        return None


def question_of(messages: Sequence[BaseMessage]) -> str:
    """The question of a run: the text of the last message.

    Raises:
        ValueError: The last message is not a person's, or has no text.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, HumanMessage) or not last.text.strip():
        raise ValueError("there is no question: the last message must be a person's, with text")
    return last.text.strip()


def answers(look: Mapping[str, Any] | Look) -> bool:
    """Whether a look has found an answer."""
    return bool(look["answer"]) and not abstains(look["answer"])


def spent(usage: DocumentUsage, settings: DocumentContext) -> DocumentStop | None:
    """The budget that is spent; None if none is."""
    limits: list[tuple[DocumentStop, float, float | None]] = [
        ("max_pages", usage.pages, settings.max_pages),
        ("max_views", usage.views, settings.max_views),
        ("max_visual_tokens", usage.visual_tokens, settings.max_visual_tokens),
        ("max_turns", usage.turns, settings.max_turns),
        ("max_seconds", usage.seconds, settings.max_seconds),
    ]
    return next((name for name, used, most in limits if most is not None and used >= most), None)


def parts_of(answer: str) -> list[str]:
    """The parts of an answer that may stand in different places: its lines, and what semicolons separate."""
    return [part for line in answer.splitlines() for each in line.split(";") if (part := each.strip())]


def in_words(answer: DocumentAnswer) -> str:
    """The answer as a message says it, with its places and what is odd."""
    if not answer.found:
        usage = answer.usage
        seen = "the page shows" if usage.pages == 1 else f"{usage.pages} pages show"
        why = f"; the search ended at its limit, {answer.stop}" if answer.stop else ""
        return "\n".join((f"Not in the document, as far as {seen}{why}.", *answer.notes))
    places = dict.fromkeys(
        f"{place.document}, page {place.page}" + (f" ({place.label})" if place.label != str(place.page) else "")
        for place in answer.evidence
    )
    return "\n".join((f"{answer.text} [{'; '.join(places)}]" if places else answer.text, *answer.notes))


def views_by_page(look: Look, library: Library) -> dict[int, list[str]]:
    """The URLs of the views of each page of a look, in the order in which the model was shown them."""
    shown: dict[int, list[str]] = {number: [] for number in look["pages"]}
    ids = {number: library.at_number(number) for number in look["pages"]}
    for view in look["views"]:
        at = library.at_id(View.parse_url(view["url"])[0])
        for number, place in ids.items():
            if place == at:
                shown[number].append(view["url"])
    return shown


def _region_of(urls: Sequence[str]) -> Region | None:
    """The region of the last view of a page; None if it shows the page, or there is none."""
    region = View.parse_url(urls[-1])[2] if urls else None
    return None if region is None or region.is_whole else region


def _evidence(
    library: Library,
    at: PageAt,
    region: Region,
    found_by: Literal["text", "ocr", "region", "page"],
    said: str,
    urls: Sequence[str],
) -> Evidence:
    x1, y1, x2, y2 = region
    return Evidence(
        document=library.record(at)["name"],
        page=at.page,
        label=library.label(at),
        region=(x1, y1, x2, y2),
        found_by=found_by,
        said=said,
        view=urls[-1] if urls else View(library.ref(at)).url,
    )
