"""The command line, and the one place that composes every room: images, a model, the graph, the renderer."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from vtagent.errors import DataError, ImageError, ModelError, VtagentError
from vtagent.images import ImageStore, MemoryImageStore
from vtagent.options import parsers
from vtagent.terminal import path_taken, plain, show, working
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

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
    top, commands = parsers()
    if not arguments or arguments[0] not in commands:
        top.parse_args(arguments or ["--help"])
    command = commands[arguments[0]]
    options = command.parse_intermixed_args(arguments[1:])
    if arguments[0] in ("ask", "chat") and options.base_url and options.zoom_bias:
        command.error("--zoom-bias needs a model on this machine, --base-url names a server")
    try:
        {"ask": _ask, "samples": _samples, "chat": _chat, "forget": _forget}[arguments[0]](options)
    except KeyboardInterrupt:
        return 130
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
    question = HumanMessage([*(look.block() for look in looks), {"type": "text", "text": options.question}])
    with _server_errors(options.base_url):
        began = time.perf_counter()
        name, model, vision = _load(options.model, options.base_url, store)
        agent = create_zoom_agent(model, store=store, vision=vision)
        loaded = time.perf_counter()
        with working("looking"):
            context = ZoomContext(max_zooms=options.max_zooms, zoom_bias=options.zoom_bias)
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
        print(json.dumps(report, ensure_ascii=False))
    else:
        show(report)
    if not report["answer"]:
        raise ModelError("the model gave no answer")


def _chat(options: argparse.Namespace) -> None:
    from vtagent.chat_command import chat

    with _server_errors(options.base_url):
        chat(options, _load)


def _forget(options: argparse.Namespace) -> None:
    from vtagent.chat_command import forget

    forget(options)


def _load(name: str | None, base_url: str | None, store: ImageStore) -> tuple[str, BaseChatModel, VisionSpec]:
    """The model to ask, its name, and how it counts visual tokens."""
    if base_url is None:
        return _load_local(name or DEFAULT_MODEL, store)
    from langchain_openai import ChatOpenAI
    from openai import OpenAI
    from pydantic import SecretStr

    key = os.environ.get("OPENAI_API_KEY") or "none"
    if name is None:
        served = OpenAI(base_url=base_url, api_key=key, max_retries=0).models.list().data
        if not served:
            raise ModelError(f"the server at {base_url} lists no model; name one with --model")
        name = served[0].id
    server = ChatOpenAI(model=name, base_url=base_url, api_key=SecretStr(key), temperature=0, max_retries=1)
    return name, server, QWEN2_5_VL if "qwen2.5-vl" in name.lower() else QWEN3_VL


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


@contextmanager
def _server_errors(base_url: str | None) -> Iterator[None]:
    """Tell what the server at `base_url` did wrong, as a ModelError."""
    if base_url is None:
        yield
        return
    import openai

    try:
        yield
    except openai.APIConnectionError as error:
        raise ModelError(f"no server answers at {base_url}") from error
    except openai.APIStatusError as error:
        raise ModelError(f"the server at {base_url} refused ({error.status_code}): {error.message}") from error
    except openai.OpenAIError as error:
        raise ModelError(f"the server at {base_url} failed: {error}") from error


def _save_views(path: list[dict[str, Any]], directory: Path, renderer: ViewRenderer, store: ImageStore) -> None:
    """Write what the model saw, in its order, and note each file in its step."""
    seen = [step for step in path if "url" in step]
    for number, step in enumerate(seen, 1):
        file = directory / f"{number}-{step['step']}-image{step['image']}.png"
        renderer.render(View.from_url(step["url"], store)).save(file)
        step["file"] = str(file)


def _samples(options: argparse.Namespace) -> None:
    from vtagent.training.pages.documents import PrintSize, render_document

    table = options.directory / "questions.jsonl"
    if table.exists():
        raise DataError(f"{table} exists; name a new directory")
    options.directory.mkdir(parents=True, exist_ok=True)
    sizes: tuple[PrintSize, ...] = ("large", "small") if options.print == "both" else (options.print,)
    rng = random.Random(f"samples/{options.seed}")
    with table.open("x", encoding="utf-8") as lines:
        for number in range(options.count):
            size = sizes[number % len(sizes)]
            document = render_document(f"samples/{options.seed}/{number}", print_size=size)
            field = rng.choice(document.fields)
            image = f"{number:04d}-{size}.png"
            document.image.save(options.directory / image)
            row = {"image": image, "question": field.question(rng), "answer": field.value, "print": size}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{options.count} documents and their questions are in {table}")
