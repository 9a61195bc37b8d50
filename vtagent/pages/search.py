"""`PageSearch`: the pages of a library ranked by their words, as a LangChain retriever (BM25, with `bm25s`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from vtagent.pages.library import Library, PageAt

__all__ = ["PageSearch", "page_of", "tokens_of", "told"]

_SHOWN = 300
"""Characters of a page's text that a result shows."""


def tokens_of(text: str) -> list[str]:
    """The words of a text as they are compared: without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return re.findall(r"\w+", "".join(each for each in plain if not unicodedata.combining(each)))


def _terms_of(text: str) -> list[str]:
    """What pages are compared by: words, and pairs of words that follow each other on a line.

    A pair such as "order 15" tells pages apart on which the words stand in other places.
    """
    lines = [tokens_of(line) for line in text.splitlines()]
    pairs = [f"{first} {second}" for line in lines for first, second in pairwise(line)]
    return [word for line in lines for word in line] + pairs


class PageSearch(BaseRetriever):
    """Finds pages by their words. The text of all pages is read once, when the first question is asked.

    A result is a `Document` with a part of the page's text; its metadata name the document (from 0), the page (from 1),
    the page's title and the score.

    Args:
        library: The documents.
        pages: The pages that are searched; all by default.
        k: Most results.
    """

    library: Any = Field(exclude=True)
    pages: list[PageAt] | None = None
    k: int = 10
    _index: Any = None
    _texts: list[tuple[PageAt, str]] | None = None

    @property
    def readable(self) -> list[PageAt]:
        """The pages that have text."""
        return [at for at, text in self._read() if text]

    @property
    def blank(self) -> list[PageAt]:
        """The pages that have none: scans without OCR, and empty pages."""
        return [at for at, text in self._read() if not text]

    def _read(self) -> list[tuple[PageAt, str]]:
        if self._texts is None:
            library: Library = self.library
            self._texts = [(at, library.text(at).plain) for at in (library if self.pages is None else self.pages)]
        return self._texts

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        readable = [(at, text) for at, text in self._read() if text]
        words = tokens_of(query)
        if not readable or not words:
            return []
        if self._index is None:
            import bm25s

            self._index = bm25s.BM25(method="lucene")
            self._index.index([_terms_of(text) or [""] for _, text in readable], show_progress=False)
        known = [term for term in _terms_of(query) if term in self._index.vocab_dict]
        if not known:
            return []
        scores = self._index.get_scores(known)
        best = sorted(range(len(readable)), key=lambda place: (-scores[place], place))[: self.k]
        return [self._result(*readable[place], float(scores[place]), words) for place in best if scores[place] > 0]

    def _result(self, at: PageAt, text: str, score: float, words: Sequence[str]) -> Document:
        library: Library = self.library
        metadata = {"document": at.document, "page": at.page, "title": library.title(at), "score": round(score, 4)}
        return Document(_around(text, words), metadata=metadata)


def _around(text: str, words: Iterable[str]) -> str:
    """The lines of a text that say most of the words, in the text's order."""
    wanted = set(words)
    lines = text.splitlines()
    best = sorted(range(len(lines)), key=lambda n: (-len(wanted.intersection(tokens_of(lines[n]))), n))
    kept: list[int] = []
    for number in best:
        if kept and sum(len(lines[n]) for n in (*kept, number)) > _SHOWN:
            break
        kept.append(number)
    return "\n".join(lines[number][:_SHOWN] for number in sorted(kept))


def told(search: PageSearch, words: str, name: Callable[[PageAt], str]) -> tuple[str, list[PageAt]]:
    """What a model is told of a search: a line a page, best first, and how many pages have no words.

    Args:
        search: Finds the pages.
        words: What is searched for.
        name: How the model is to name a page.

    Returns:
        The text, and the pages that were found.
    """
    results = search.invoke(words)
    found = [PageAt(result.metadata["document"], result.metadata["page"]) for result in results]
    lines = [
        f"{name(at)}: {' / '.join(result.page_content.splitlines())}" for at, result in zip(found, results, strict=True)
    ]
    lines = lines or ["No page shares a word with that."]
    if blank := len(search.blank):
        lines.append(f"{blank} of {blank + len(search.readable)} pages have no text: look at them with view_page.")
    return "\n".join(lines), found


def page_of(result: Document, library: Library) -> PageAt | None:
    """The page that a result of any retriever names; None if it names none of the library.

    Args:
        result: Its metadata hold "page", counted from 1, and, where there are several documents, "document": its place,
            counted from 0, or its name.
        library: The documents.
    """
    page, document = result.metadata.get("page"), result.metadata.get("document", 0)
    if isinstance(document, str):
        document = next((n for n, record in enumerate(library.records) if record["name"] == document), -1)
    if isinstance(page, bool) or not isinstance(page, int) or not isinstance(document, int):
        return None
    if not 0 <= document < len(library.records) or not 1 <= page <= library.records[document]["pages"]:
        return None
    return PageAt(document, page)
