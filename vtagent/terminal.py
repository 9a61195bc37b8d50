"""Terminal output of one run: the answer, the path that the model took, and the visual tokens that it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vtagent.protocol import reply_of
from vtagent.views import View

# Why an answer was forced. `max_zooms` is left out: it is how a run that zooms usually ends.
FORCED = {
    "max_mistakes": "too many of its calls failed, so it had to answer",
    "max_turns": "it reached its limit of turns, so it had to answer",
    "max_visual_tokens": "its visual tokens were used up, so it had to answer",
    "max_seconds": "its time was used up, so it had to answer",
    "length": "its reply was cut at the limit of tokens; raise --max-tokens",
    "no_answer": "it ended without an answer",
}


def printable(text: str) -> str:
    """Removes control characters other than line feeds, so that no escape sequence of a model reaches the terminal."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


def path_taken(messages: Sequence[BaseMessage], views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lists what the model did, step by step.

    Args:
        messages: The messages of a finished run.
        views: The view records of the same run.

    Returns:
        One dictionary per step, by the value of "step":

        - "look", "zoom": the view's record, with the number of its image ("image", from 1) and of all images ("of").
        - "decision": "to" is "zoom", "answer" or "nothing valid"; "think" is the reasoning or None.
        - "refused": "why" is the error message for the model.
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
    """A Rich console that leaves a broken pipe to its caller."""

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError again, where Rich would exit with code 1."""
        raise  # Rich calls this method in its exception handler


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Shows a spinner on stderr while the block runs, if stderr is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} …"):
        yield


def show(report: dict[str, Any]) -> None:
    """Prints a report of `vtagent ask` on stdout."""
    answer = Text(printable(report["answer"] or "no answer"), style="bold green" if report["answer"] else "bold red")
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
        Text(f"{report['seconds']:.2f} s, after {report['load_seconds']:.1f} s to load {printable(report['model'])}"),
    )
    Output(highlight=False).print(Group(answer, Text(), path))


def _row(step: dict[str, Any]) -> tuple[str, Text]:
    """Returns the label and the text of a step."""
    match step["step"]:
        case "look":
            return "looked", Text(f"at {_image(step)} small: {_pixels(step)}")
        case "zoom":
            where = f"region {tuple(step['region'])} of {_image(step)}" if step["region"] else f"all of {_image(step)}"
            return "zoomed", Text(f"on {where}: {_pixels(step)}")
        case "refused":
            return "refused", Text(printable(step["why"]), style="yellow")
        case _:
            think = f" — {printable(step['think'])}" if step["think"] else ""
            return "decided", Text.assemble("to ", (step["to"], "bold"), (think, "italic dim"))


def _image(step: dict[str, Any]) -> str:
    return f"image {step['image']}" if step["of"] > 1 else "the image"


def _pixels(step: dict[str, Any]) -> str:
    return f"{step['width']} × {step['height']} pixels, {step['tokens']} visual tokens"
