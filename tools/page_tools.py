"""`search_pages` and `view_page`: an agent finds pages of documents by their words, and looks at them cheaply.

A page that was viewed is an image of the conversation, so `zoom_image` looks closer at it.
"""

# No `from __future__ import annotations` here: LangChain evaluates the arguments' annotations anew in every call.

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import Field

from vtagent.errors import ImageError
from vtagent.images import ImageStore
from vtagent.pages.library import DocumentRecord, Library, PageAt
from vtagent.pages.ocr import Ocr
from vtagent.pages.search import PageSearch, told
from vtagent.views import View

__all__ = ["create_page_tools"]


def create_page_tools(
    documents: Sequence[DocumentRecord], *, image_store: ImageStore, ocr: Ocr | None = None, scale: float = 0.5
) -> list[BaseTool]:
    """Make the tools, for `create_agent` or `ToolNode`.

    Args:
        documents: From `take_in_paths`.
        image_store: The store that holds them.
        ocr: Reads pages that have no text layer; None leaves them without words.
        scale: The share of both sides at which a page is shown.

    Returns:
        `search_pages` and `view_page`. A mistake of the model is answered with `status="error"` and what would be
        right.

    Raises:
        ValueError: There is no document, or `scale` is not above 0 and at most 1.
    """
    if not documents:
        raise ValueError("there is no document: give some, as take_in_paths returns them")
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, not {scale}")
    library = Library(documents, image_store, ocr=ocr)
    search = PageSearch(library=library)
    names = [record["name"] for record in documents]
    which = "Name of the document; leave it out where there is only one."

    def search_pages(
        words: Annotated[str, Field(description="What the page should say.", max_length=2000)],
    ) -> tuple[str, dict[str, Any]]:
        text, found = told(search, words, library.title)
        return text, {"pages": [[at.document, at.page] for at in found]}

    def view_page(
        page: Annotated[int, Field(description="Number of the page, counted from 1.")],
        document: Annotated[str, Field(description=which)] = "",
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if document not in names and (document or len(names) > 1):
            raise ToolException(f"There is no document {document!r:.100}: name one of {', '.join(names)!s:.1000}.")
        at = PageAt(names.index(document) if document else 0, page)
        try:
            view = View(library.ref(at), scale)
        except ImageError as error:
            raise ToolException(str(error)) from error
        text = f"{library.title(at)}, shown at {scale:.0%} of both sides. zoom_image shows a part of it, sharp."
        return [{"type": "text", "text": text}, view.block()], {"view": view.url}

    about: dict[Callable[..., Any], str] = {
        search_pages: "Find the pages of the documents that share words with a question. Shows a part of their text.",
        view_page: "Show a page of a document small, for about a quarter of its tokens.",
    }
    return [
        StructuredTool.from_function(
            each, description=description, response_format="content_and_artifact", handle_tool_error=True
        )
        for each, description in about.items()
    ]
