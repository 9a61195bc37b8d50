"""What a person sees of one run: the answer, the path the model took to it, and what the looking cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vtagent.errors import DataError
from vtagent.protocol import reply_of
from vtagent.views import View

# Why an answer was forced. Having zoomed as often as it may is the ordinary end of a run that zooms, and goes unsaid.
FORCED = {
    "max_mistakes": "too many of its calls failed, so it had to answer",
    "max_turns": "it had called tools as often as it may, so it had to answer",
    "max_visual_tokens": "the visual tokens were used up, so it had to answer",
    "max_seconds": "the time was used up, so it had to answer",
    "no_answer": "it ended without an answer",
}


def plain(text: str) -> str:
    """What a model said, safe to print: no control characters, so no escape sequence reaches the terminal."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


def utf_8(question: str) -> str:
    """A question as it is; a DataError if what was typed is not UTF-8, which no model can be asked."""
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise DataError("the question is not UTF-8")
    return question


def path_taken(messages: Sequence[BaseMessage], views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the model did, step by step, out of a finished run's messages and views.

    Returns:
        Steps with "step": "look" and "zoom" (the view's record, and "image", counted from 1, "of" so many), "decision"
        ("to": "zoom", "answer" or "nothing valid"; "think": its reason or None), "refused" ("why").
    """
    images = list(dict.fromkeys(View.parse_url(view["url"])[0] for view in views if view["kind"] == "low"))
    records = {view["url"]: view for view in views}

    def seen(step: str, view: Mapping[str, Any]) -> dict[str, Any]:
        image = images.index(View.parse_url(view["url"])[0]) + 1
        return {"step": step, "image": image, "of": len(images), **view}

    path = [seen("look", view) for view in views if view["kind"] == "low"]
    for message in messages:
        if isinstance(message, AIMessage):
            reply = reply_of(message)
            to = "zoom" if reply.tool_calls else "nothing valid" if reply.invalid_calls else "answer"
            path.append({"step": "decision", "to": to, "think": reply.think})
        elif isinstance(message, ToolMessage):
            urls = [
                block["url"] for block in message.content if isinstance(block, dict) and block.get("type") == "image"
            ]
            path.extend(seen("zoom", records[url]) for url in urls)
            if not urls:
                path.append({"step": "refused", "why": message.text})
    return path


class Output(Console):
    """A Rich console that leaves a broken pipe to who called."""

    def on_broken_pipe(self) -> None:
        """Raise it again; Rich would exit as if something had gone wrong."""
        raise  # Rich calls this while it handles the error


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr while something slow happens; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} …"):
        yield


def show(report: dict[str, Any]) -> None:
    """Print a report of `vtagent ask` on stdout."""
    answer = Text(plain(report["answer"] or "no answer"), style="bold green" if report["answer"] else "bold red")
    path = Table.grid(padding=(0, 2))
    path.add_column(style="dim", no_wrap=True)
    path.add_column(overflow="fold")
    for step in report["path"]:
        path.add_row(*_row(step))
    if report["stop"] in FORCED:
        path.add_row("stopped", Text(FORCED[report["stop"]], style="yellow"))
    used, full = report["visual_tokens"], report["full_visual_tokens"]
    path.add_row(
        "tokens", Text(f"{used} visual tokens; full resolution at once costs {full} ({used / full:.0%} of it)")
    )
    path.add_row(
        "time",
        Text(f"{report['seconds']:.2f} s, after {report['load_seconds']:.1f} s to load {plain(report['model'])}"),
    )
    Output(highlight=False).print(Group(answer, Text(), path))


def _row(step: dict[str, Any]) -> tuple[str, Text]:
    match step["step"]:
        case "look":
            return "looked", Text(f"at {_image(step)} small: {_pixels(step)}")
        case "zoom":
            where = f"region {tuple(step['region'])} of {_image(step)}" if step["region"] else f"all of {_image(step)}"
            return "zoomed", Text(f"on {where}: {_pixels(step)}")
        case "refused":
            return "refused", Text(plain(step["why"]), style="yellow")
        case _:
            think = f" — {plain(step['think'])}" if step["think"] else ""
            return "decided", Text.assemble("to ", (step["to"], "bold"), (think, "italic dim"))


def _image(step: dict[str, Any]) -> str:
    return f"image {step['image']}" if step["of"] > 1 else "the image"


def _pixels(step: dict[str, Any]) -> str:
    return f"{step['width']} × {step['height']} pixels, {step['tokens']} visual tokens"
