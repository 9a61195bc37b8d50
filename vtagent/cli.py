"""The command line, and the one place that composes every room: images, a model, the graph, the renderer."""

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
from vtagent.images import ImageStore, MemoryImageStore
from vtagent.options import parsers
from vtagent.served import load_served, zoom_token_id
from vtagent.terminal import path_taken, plain, show, utf_8, working
from vtagent.views import View, ViewRenderer

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from vtagent.visual_tokens import VisionSpec

DEFAULT_MODEL = "zoom"

# What brings a module that is not there.
EXTRAS = {
    "torch": "local",
    "transformers": "local",
    "langchain_openai": "openai",
    "openai": "openai",
    "numpy": "samples",
    "matplotlib": "samples",
}


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. An error becomes one line on stderr; --debug shows its traceback."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character still gets the answer
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)  # a stdout that is closed from the start is no error, to `print`
    except BrokenPipeError:  # who reads has read enough, as `head` does; what is left to write must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: Sequence[str]) -> int:
    top, commands = parsers()
    if not arguments or arguments[0] not in commands:
        top.parse_args(arguments or ["--help"])
    command = commands[arguments[0]]
    options = command.parse_intermixed_args(arguments[1:])
    warnings.filterwarnings("ignore", module="PIL")  # what it warns of is refused, in our own words, or harmless
    try:
        {"ask": _ask, "samples": _samples, "chat": _chat, "forget": _forget, "models": _models}[arguments[0]](options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if options.debug:
            raise
        code, message = explain(error)
        print(f"vtagent {arguments[0]}: error: {' '.join(plain(message).split())}", file=sys.stderr)
        return code
    return 0


def explain(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and what to tell the user."""
    match error:
        case ModuleNotFoundError(name=str(name)) if extra := EXTRAS.get(name.partition(".")[0]):
            return 3, f"this needs an extra: pip install 'vtagent[{extra}]'"
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
    from vtagent.graphs.zoom import ZoomContext, create_zoom_agent

    store = MemoryImageStore()
    looks = [View(store.put_file(path)) for path in options.images]
    if options.save_views:
        options.save_views.mkdir(parents=True, exist_ok=True)
    question = HumanMessage([*(look.block() for look in looks), {"type": "text", "text": utf_8(options.question)}])
    began = time.perf_counter()
    name, model, vision = _load(options.model, options.base_url, store, timeout=options.timeout)
    agent = create_zoom_agent(model, store=store, vision=vision)
    loaded = time.perf_counter()
    with working("looking"):
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
        print(json.dumps(report))  # in ASCII: a file name or a reply may hold what no encoding can print
    else:
        show(report)
    if not report["answer"]:
        raise ModelError("the model gave no answer")


def _chat(options: argparse.Namespace) -> None:
    from vtagent.chat_command import chat

    chat(options, partial(_load, timeout=options.timeout))


def _forget(options: argparse.Namespace) -> None:
    from vtagent.chat_command import forget

    forget(options)


def _models(options: argparse.Namespace) -> None:
    from vtagent.models_command import models

    models(options)


def _load(
    name: str | None, base_url: str | None, store: ImageStore, *, timeout: float
) -> tuple[str, BaseChatModel, VisionSpec]:
    """The model to ask, its name, and how it counts visual tokens."""
    if base_url is None:
        return _load_local(name or DEFAULT_MODEL, store)
    return load_served(name, base_url, timeout)


def _load_local(name: str, store: ImageStore) -> tuple[str, BaseChatModel, VisionSpec]:
    """As `_load`; a download shows its own progress, all else a spinner."""
    downloads = "/" in name and not Path(name).exists()
    with nullcontext() if downloads else working(f"loading {name}"):
        import torch  # noqa: F401 - before transformers, which only grumbles where torch is missing
        from transformers.utils import logging

        from vtagent.models.chat import ChatVLM

        logging.disable_progress_bar()
        model = ChatVLM.from_pretrained(name, store=store)
    return name, model, model.vision


def _save_views(path: list[dict[str, Any]], directory: Path, renderer: ViewRenderer, store: ImageStore) -> None:
    """Write what the model saw, in its order, and note each file in its step."""
    seen = [step for step in path if "url" in step]
    for number, step in enumerate(seen, 1):
        file = directory / f"{number}-{step['step']}-image{step['image']}.png"
        renderer.render(View.from_url(step["url"], store)).save(file)
        step["file"] = str(file)


def _samples(options: argparse.Namespace) -> None:
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
    with table.open("x", encoding="utf-8") as file:  # last: what was cut short can simply be asked for again
        file.writelines(lines)
    print(f"{options.count} documents and their questions are in {plain(str(table))}")
