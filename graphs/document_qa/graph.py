"""The document graph: questions over many pages, with the place of each answer, within budgets.

    shortlist → look ⇄ (go on) → cite

The zoom graph looks at pages; this graph chooses them and says where the answer stands. State holds JSON alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import HumanMessage
from langchain_core.retrievers import BaseRetriever
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from vtagent.abstention import ABSENT
from vtagent.eyes import Vision
from vtagent.eyes.facts import Boxes
from vtagent.eyes.lookup import EyesGiven
from vtagent.graphs.document_qa.nodes import Cite, DocumentParts, Looking, Shortlist, after_look
from vtagent.graphs.document_qa.state import DocumentAnswer, DocumentContext, DocumentInput, DocumentState
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import ImageStore
from vtagent.models.runnables import AnyModel
from vtagent.pages.library import DocumentRecord
from vtagent.pages.ocr import Ocr
from vtagent.prompts import zoom_prompt

__all__ = ["DocumentAgent", "ask_documents", "build_document_graph", "create_document_agent", "page_prompt"]

DocumentAgent = CompiledStateGraph[DocumentState, DocumentContext, DocumentInput, DocumentState]
"""The compiled graph."""


def page_prompt(*, tool_name: str, scale: float, max_zooms: int, boxes: Boxes = "thousandths") -> str:
    """The system prompt of a look: that of the zoom graph, and what to answer where the pages do not hold the answer.

    Args:
        tool_name: As for `zoom_prompt`.
        scale: As for `zoom_prompt`.
        max_zooms: As for `zoom_prompt`.
        boxes: As for `zoom_prompt`.
    """
    looking = zoom_prompt(tool_name=tool_name, scale=scale, max_zooms=max_zooms, boxes=boxes)
    return (
        f"{looking}\n\n"
        f"The images are pages of a longer document. If they do not hold the answer, answer exactly: {ABSENT}. "
        "Give the value as it is printed. Separate the parts of an answer that stand in several places by semicolons."
    )


def build_document_graph(
    model: AnyModel | None = None,
    *,
    image_store: ImageStore,
    vision: Vision | None = None,
    eyes: EyesGiven = None,
    retriever: BaseRetriever | None = None,
    ocr: Ocr | None = None,
) -> StateGraph[DocumentState, DocumentContext, DocumentInput, DocumentState]:
    """Build the graph without compiling it.

    Args:
        model: The model that looks at pages; a run may bring its own in its context.
        image_store: Where the documents are.
        vision: As for `build_zoom_graph`.
        eyes: As for `build_zoom_graph`.
        retriever: Finds pages for a question: its results name "page", counted from 1, and "document", its place from 0
            or its name, in their metadata. By default pages are found by their words (BM25), and pages without words
            are looked at, several together.
        ocr: Reads pages that have no text layer, as `find_ocr` finds one; None leaves them without words.
    """
    agent = create_zoom_agent(
        model, image_store=image_store, vision=vision, eyes=eyes, system_prompt=page_prompt, name="look"
    )
    parts = DocumentParts(agent, image_store, model, eyes if vision is None else vision, ocr, retriever)
    graph: StateGraph[DocumentState, DocumentContext, DocumentInput, DocumentState] = StateGraph(
        DocumentState, context_schema=DocumentContext, input_schema=DocumentInput
    )
    graph.add_node("shortlist", Shortlist(parts))
    graph.add_node("look", Looking(parts))
    graph.add_node("cite", Cite(parts))
    graph.add_edge(START, "shortlist")
    graph.add_edge("shortlist", "look")
    graph.add_conditional_edges("look", after_look, ["look", "cite"])
    graph.add_edge("cite", END)
    return graph


def create_document_agent(
    model: AnyModel | None = None,
    *,
    image_store: ImageStore,
    vision: Vision | None = None,
    eyes: EyesGiven = None,
    retriever: BaseRetriever | None = None,
    ocr: Ocr | None = None,
    checkpointer: Checkpointer = None,
) -> DocumentAgent:
    """Build and compile the graph. A run takes messages and `documents`, and adds `answer`.

    Args:
        model: As for `build_document_graph`.
        image_store: As for `build_document_graph`.
        vision: As for `build_document_graph`.
        eyes: As for `build_document_graph`.
        retriever: As for `build_document_graph`.
        ocr: As for `build_document_graph`.
        checkpointer: Keeps conversations: later questions of a thread are about the same documents.
    """
    graph = build_document_graph(model, image_store=image_store, vision=vision, eyes=eyes, retriever=retriever, ocr=ocr)
    return graph.compile(checkpointer=checkpointer, name="document_agent")


def ask_documents(
    agent: DocumentAgent,
    question: str,
    documents: Sequence[DocumentRecord],
    *,
    pages: Sequence[int] | None = None,
    context: DocumentContext | None = None,
) -> DocumentAnswer:
    """Ask one question about documents.

    Args:
        agent: From `create_document_agent`.
        question: The question.
        documents: From `take_in_paths`.
        pages: Numbers of the only pages that may be looked at, counted from 1 through all documents; None: all.
        context: The settings of the run.
    """
    given: DocumentInput = {
        "messages": [HumanMessage(question)],
        "documents": list(documents),
        "pages": None if pages is None else list(pages),
    }
    # A look is two steps of the graph at most: the default limit of 25 would end a long search with an error.
    limit = 10 + 2 * (context or DocumentContext()).max_pages
    result = agent.invoke(given, {"recursion_limit": limit}, context=context or DocumentContext())
    return DocumentAnswer.model_validate(result["answer"])
