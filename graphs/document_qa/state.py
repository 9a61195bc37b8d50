"""What the document graph carries from node to node, what it answers, and the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from types import NoneType
from typing import Any, Literal, NotRequired, TypeAlias

from langchain_core.runnables import Runnable
from langgraph.graph import MessagesState
from pydantic import BaseModel, ConfigDict, Field, InstanceOf
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from vtagent.graphs.budgets import NUMBER, WHOLE, ViewRecord, check_kind
from vtagent.models.runnables import AnyModel
from vtagent.pages.library import DocumentRecord

__all__ = ["DocumentAnswer", "DocumentContext", "DocumentInput", "DocumentState", "DocumentUsage", "Evidence", "Look"]

FoundBy: TypeAlias = Literal["text", "ocr", "region", "page"]
"""How a place was found: the words of the text layer, those of OCR, the region that the model zoomed into, or nothing
but the page that it looked at."""
DocumentStop: TypeAlias = Literal["max_pages", "max_views", "max_visual_tokens", "max_turns", "max_seconds"]
"""The budget that ended the search."""


class Evidence(BaseModel):
    """A place that an answer, or a part of it, was read from."""

    model_config = ConfigDict(frozen=True)

    document: str
    """Name of the document."""
    page: int
    """Number of the page in the document, counted from 1."""
    label: str
    """What is printed as the page's number, as far as the file says it."""
    region: tuple[int, int, int, int]
    """Left, top, right and bottom in thousandths of the upright page."""
    found_by: FoundBy
    said: str
    """The part of the answer that stands there."""
    view: str
    """The view, vtimg://sha256/…, that the model read last on this page."""


class DocumentUsage(BaseModel):
    """What one run has cost."""

    model_config = ConfigDict(frozen=True)

    pages: int = 0
    """Pages that were looked at."""
    views: int = 0
    """Views that the model was shown."""
    visual_tokens: int = 0
    full_visual_tokens: int = 0
    """What all pages that could have been looked at would cost at full resolution."""
    input_tokens: int = 0
    output_tokens: int = 0
    turns: int = 0
    """Calls of the model."""
    seconds: float = 0.0


class DocumentAnswer(BaseModel):
    """What a run answers."""

    model_config = ConfigDict(frozen=True)

    text: str
    """The answer; empty if none was found."""
    found: bool
    """Whether the documents hold the answer, as far as the run has looked."""
    evidence: list[Evidence] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """What the reader of the answer should know, such as a text layer that does not say what the page shows."""
    stop: DocumentStop | None = None
    """The budget that ended the search before an answer was found; None if none did."""
    usage: DocumentUsage = DocumentUsage()
    trail: list[dict[str, Any]] = Field(default_factory=list)
    """What was done, step by step: {"step": "shortlist", …}, {"step": "look", …}, {"step": "cite", …}."""


class Look(TypedDict):
    """What came of looking at pages."""

    pages: list[int]
    """Numbers among all pages of the documents, counted from 1, in the order in which they were shown."""
    answer: str | None
    views: list[ViewRecord]


class DocumentInput(MessagesState):
    """What a run is given: the question is the text of the last message."""

    documents: NotRequired[list[DocumentRecord]]
    """From `take_in_paths`; a conversation keeps those of its earlier runs. Files in the last message are added."""
    pages: NotRequired[list[int] | None]
    """Numbers of the only pages that may be looked at, counted from 1 through all documents; None: all."""


class DocumentState(DocumentInput):
    """What a run leaves: all but the messages and documents describe the last run alone."""

    queue: NotRequired[list[int]]
    """Pages that have not been looked at, the most promising first."""
    together: NotRequired[int]
    """How many of them are looked at in one conversation with the model."""
    looks: NotRequired[list[Look]]
    usage: NotRequired[dict[str, Any]]
    trail: NotRequired[list[dict[str, Any]]]
    stop: NotRequired[DocumentStop | None]
    answer: NotRequired[dict[str, Any] | None]
    """A `DocumentAnswer`, as JSON."""


@dataclass(frozen=True, kw_only=True)
class DocumentContext:
    """The settings of one run. A budget that is spent ends the search; the answer then says so.

    Raises:
        TypeError: A field of another type; the text names it.
        ValueError: A number out of range; the text names the field.
    """

    model: SkipJsonSchema[InstanceOf[AnyModel] | None] = None
    """Used in place of the graph's own model."""
    max_pages: int = 24
    """Pages that are looked at."""
    max_views: int | None = None
    """Views, of pages and of parts of pages, that the model is shown."""
    max_visual_tokens: int | None = None
    max_turns: int | None = None
    """Calls of the model."""
    max_seconds: float | None = None
    """Seconds inside the graph. Checked between looks: a look under way is not cut off."""
    scale: float = 0.5
    """Both sides of a page that the words of the question point to are first shown at this share of their length."""
    overview_scale: float = 0.25
    """The same for pages that nothing is known of, which are looked at several together."""
    overview_pages: int = 12
    """How many such pages are looked at together."""
    max_zooms: int = 1
    """Views that the model may ask for in one look."""
    zoom_bias: float = 0.0
    """Added to the log-odds of a zoom."""

    def __post_init__(self) -> None:
        check_kind(self, ("max_pages", "overview_pages", "max_zooms"), WHOLE, "a whole number")
        check_kind(
            self, ("max_views", "max_visual_tokens", "max_turns"), (int, NoneType, Integral), "a whole number or None"
        )
        check_kind(self, ("max_seconds",), (NoneType, *NUMBER), "a number or None")
        check_kind(self, ("scale", "overview_scale", "zoom_bias"), NUMBER, "a number")
        check_kind(self, ("model",), (NoneType, Runnable), "a LangChain chat model")
        for name in ("max_pages", "overview_pages"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name in ("max_views", "max_visual_tokens", "max_turns", "max_seconds", "max_zooms"):
            if (value := getattr(self, name)) is not None and not value >= 0:  # written this way to refuse NaN
                raise ValueError(f"{name} must not be negative, not {value}")
        for name in ("scale", "overview_scale"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {value}")
