"""Questions over documents of many pages: the graph, its settings, and what it answers."""

from vtagent.graphs.document_qa.graph import ask_documents, build_document_graph, create_document_agent
from vtagent.graphs.document_qa.state import (
    DocumentAnswer,
    DocumentContext,
    DocumentInput,
    DocumentState,
    DocumentUsage,
    Evidence,
)

__all__ = [
    "DocumentAnswer",
    "DocumentContext",
    "DocumentInput",
    "DocumentState",
    "DocumentUsage",
    "Evidence",
    "ask_documents",
    "build_document_graph",
    "create_document_agent",
]
