"""Which extra installs a package that is missing. Needs no package itself."""

from __future__ import annotations

__all__ = ["EXTRAS", "missing_extra"]

EXTRAS = {
    "bm25s": "docs",
    "langchain": "agents",
    "langchain_openai": "openai",
    "langgraph.checkpoint.sqlite": "cli",
    "matplotlib": "samples",
    "mcp": "mcp",
    "numpy": "samples",
    "onnxruntime": "ocr",
    "openai": "openai",
    "pypdfium2": "docs",
    "rapidocr": "ocr",
    "rich": "cli",
    "torch": "local",
    "transformers": "local",
}
"""Module → the extra that installs it."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Say how to install the module that an import did not find.

    Args:
        error: The error of the import.

    Returns:
        One line for the user, or None if no extra installs that module.
    """
    module = error.name or ""
    while module and module not in EXTRAS:
        module = module.rpartition(".")[0]
    return f"this needs an extra: pip install 'vtagent[{EXTRAS[module]}]'" if module else None
