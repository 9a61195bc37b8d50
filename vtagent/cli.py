"""The command line. It composes the packages: an image store, a model, the graph and the renderer."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from vtagent.errors import DataError, ImageError, ModelError, VtagentError
from vtagent.extras import missing_extra
from vtagent.eyes import Vision
from vtagent.hub import check_available
from vtagent.images import ImageStore, MemoryImageStore
from vtagent.options import parsers, zoom_token_id
from vtagent.terminal import path_taken, printable, show, spinner
from vtagent.user_input import check_question, image_block
from vtagent.views import View, ViewRenderer

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


DEFAULT_MODEL = "zoom"


def run(arguments: Sequence[str]) -> int:
    """Runs one command line. An error is one line on stderr; with --debug it is raised.

    Args:
        arguments: The command and its arguments, without the program's name.

    Returns:
        The exit code, as `vtagent.options.EXIT_CODES` lists them.

    Raises:
        SystemExit: argparse has printed help, the version or what is wrong with the command line.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # print the answer even if the terminal lacks a character
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)  # `print` accepts a stdout of None; `sys.stdout.flush()` does not
    except BrokenPipeError:  # the reader has left, as `head` does; what is still buffered must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: Sequence[str]) -> int:
    """Runs one command line, as `run` does, but raises the BrokenPipeError of a closed stdout."""
    top, commands = parsers()
    if not arguments or arguments[0] not in commands:
        top.parse_args(arguments or ["--help"])
    command = commands[arguments[0]]
    options = command.parse_intermixed_args(arguments[1:])
    warnings.filterwarnings("ignore", module="PIL")  # what Pillow warns of is harmless, or vtagent itself refuses it
    try:
        run_command = {
            "ask": _ask,
            "samples": _samples,
            "chat": _chat,
            "forget": _forget,
            "models": _models,
            "savings": _savings,
            "mcp": _mcp,
            "docqa": _docqa,
        }[arguments[0]]
        run_command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if options.debug:
            raise
        code, message = explain(error)
        print(f"vtagent {arguments[0]}: error: {' '.join(printable(message).split())}", file=sys.stderr)
        return code
    return 0


def explain(error: Exception) -> tuple[int, str]:
    """Returns the exit code of an error and the message for the user."""
    match error:
        case ModuleNotFoundError() if needed := missing_extra(error):
            return 3, needed
        case VtagentError(__cause__=ModuleNotFoundError()):
            return 3, str(error)
        case ImageError() | DataError():
            return 2, str(error)
        case VtagentError():
            return 4, str(error)
        case OSError(strerror=str(reason)):
            return 2, f"{error.filename}: {reason}" if error.filename else reason
    return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _ask(options: argparse.Namespace) -> None:
    """Runs `vtagent ask`.

    Raises:
        ModelError: The model or the server failed, or gave no answer.
        ImageError: An image cannot be used.
        DataError: The question is empty, or not UTF-8.
    """
    store = MemoryImageStore()
    text = check_question(options.question)
    blocks = [image_block(path, store) for path in options.images]
    if options.save_views:
        options.save_views.mkdir(parents=True, exist_ok=True)
    question = HumanMessage([*blocks, {"type": "text", "text": text}])
    began = time.perf_counter()
    name, model, vision = _load(options, store)
    from vtagent.graphs.zoom import ZoomContext, create_zoom_agent  # after the name of the model is known to be good

    agent = create_zoom_agent(model, image_store=store, vision=vision)
    loaded = time.perf_counter()
    with spinner("looking"):
        context = ZoomContext(
            max_zooms=options.max_zooms, zoom_bias=options.zoom_bias, zoom_token_id=zoom_token_id(options, name)
        )
        state = agent.invoke({"messages": [question]}, context=context)
    report: dict[str, Any] = {
        "question": options.question,
        "images": [str(path) for path in options.images],
        "model": name,
        "answer": state["answer"],
        "stop": state["stop"],
        "path": path_taken(state["messages"], state["views"]),
        **state["usage"],
        "seconds": round(time.perf_counter() - loaded, 3),
        "load_seconds": round(loaded - began, 3),
    }
    if options.save_views:
        _save_views(report["path"], options.save_views, ViewRenderer(store, vision), store)
    if options.json:
        print(json.dumps(report))  # ASCII only: a file name or a reply may hold characters that cannot be encoded
    else:
        show(report)
    if not report["answer"]:
        cut = "; its reply was cut at the limit of tokens: raise --max-tokens" if state["stop"] == "length" else ""
        raise ModelError(f"the model gave no answer{cut}")


def _chat(options: argparse.Namespace) -> None:
    if options.base_url is None and options.model is not None:
        check_available(options.model)  # before the graph is imported
    from vtagent.chat_command import chat

    chat(options, partial(_load, options))


def _forget(options: argparse.Namespace) -> None:
    from vtagent.chat_command import forget

    forget(options)


def _models(options: argparse.Namespace) -> None:
    from vtagent.models_command import models

    models(options)


def _savings(options: argparse.Namespace) -> None:
    from vtagent.savings_command import savings

    savings(options)


def _mcp(options: argparse.Namespace) -> None:
    from vtagent.mcp_command import serve

    serve(options, partial(_load, options))


def _docqa(options: argparse.Namespace) -> None:
    if options.base_url is None and options.model is not None:
        check_available(options.model)  # before documents are opened
    from vtagent.docqa_command import docqa

    docqa(options, _load)


def _load(options: argparse.Namespace, store: ImageStore) -> tuple[str, BaseChatModel, Vision]:
    """Loads a model from this machine, or connects to a server.

    Args:
        options: The parsed options of `ask` or `chat`.
        store: Where a local model finds its images.

    Returns:
        (name, model, how the model counts visual tokens).

    Raises:
        ModelError: The checkpoint or the server cannot be used.
    """
    limits = {} if options.max_tokens is None else {"max_tokens": options.max_tokens}
    if options.base_url is None:
        from vtagent.models.loading import local_settings

        chosen = local_settings(device=options.device, dtype=options.dtype, memory=options.memory)
        return _load_local(options.model or DEFAULT_MODEL, store, limits | chosen)
    from vtagent.models.openai_server import load_served

    return load_served(options.model, options.base_url, options.timeout, **limits)


def _load_local(name: str, store: ImageStore, settings: dict[str, Any]) -> tuple[str, BaseChatModel, Vision]:
    """Loads a model on this machine; see `_load`. A download shows its own progress, any other loading a spinner."""
    check_available(name)  # before torch is imported, which takes seconds
    downloads = "/" in name and not Path(name).exists()
    with nullcontext() if downloads else spinner(f"loading {name}"):
        import torch  # noqa: F401 - transformers only warns if torch is missing; this raises
        from transformers.utils import logging

        from vtagent.models.chat import ChatVLM

        logging.disable_progress_bar()
        model = ChatVLM.from_pretrained(name, image_store=store, **settings)
    return name, model, model.vision


def _save_views(path: list[dict[str, Any]], directory: Path, renderer: ViewRenderer, store: ImageStore) -> None:
    """Saves the views that the model saw, in their order, and adds each file to its step in `path`."""
    seen = [step for step in path if "url" in step]
    for number, step in enumerate(seen, 1):
        file = directory / f"{number}-{step['step']}-image{step['image']}.png"
        renderer.render(View.from_url(step["url"], store)).save(file)
        step["file"] = str(file)


def _samples(options: argparse.Namespace) -> None:
    """Runs `vtagent samples`.

    Raises:
        DataError: The directory already has a questions.jsonl.
    """
    from vtagent.training.documents.render import PrintSize, render_document

    table = options.directory / "questions.jsonl"
    if table.exists():
        raise DataError(f"{table} exists; name a new directory")
    options.directory.mkdir(parents=True, exist_ok=True)
    sizes: tuple[PrintSize, ...] = ("large", "small") if options.print == "both" else (options.print,)
    rng = random.Random(f"samples/{options.seed}")
    lines = []
    for number in range(options.count):
        size = sizes[number % len(sizes)]
        document = render_document(f"samples/{options.seed}/{number}", print_size=size)
        field = rng.choice(document.fields)
        image = f"{number:04d}-{size}.png"
        document.image.save(options.directory / image)
        row = {"image": image, "question": field.question(rng), "answer": field.value, "print": size}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    with table.open("x", encoding="utf-8") as file:  # last, so that an interrupted command can be repeated
        file.writelines(lines)
    print(f"{options.count} documents and their questions are in {printable(str(table))}")
