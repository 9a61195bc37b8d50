"""Every option of the command line, and the help that teaches it."""

from __future__ import annotations

import argparse
import math
import re
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

EXIT_CODES = """\
exit codes:
  0  answered, or done                       3    an extra is not installed
  1  a bug in vtagent                        4    the model or the server failed
  2  a wrong option or an unusable image     130  interrupted
                                             141  nobody reads the output
"""

OVERVIEW = """\
Ask questions about images, and see what looking cost.

The model sees each image small first: half of both sides, a quarter of the
visual tokens. It then answers, or asks for more resolution with a tool call,
`zoom_image`, of the whole image or of a region.
"""

ASK = """\
examples:
  vtagent ask receipt.png "What is the Total?"

  # Two images; a real model, fetched from the hub the first time
  vtagent ask front.jpg back.jpg "Who signed?" --model Qwen/Qwen3-VL-2B-Instruct

  # A model that a server has already loaded (vLLM, or anything OpenAI-like)
  vtagent ask receipt.png "Who paid?" --base-url http://localhost:8000/v1

  # Never zoom: the small view must do. Or zoom up to three times.
  vtagent ask receipt.png "What is the Tax?" --max-zooms 0
  vtagent ask receipt.png "What is the Tax?" --max-zooms 3

  # Zoom more readily (a negative number: more rarely)
  vtagent ask receipt.png "What is the Tax?" --zoom-bias 2

  # Keep exactly the pixels that the model saw
  vtagent ask receipt.png "What is the Tax?" --save-views seen/

  # For scripts: one JSON object
  vtagent ask receipt.png "What is the Tax?" --json

The bundled policies, base and zoom, read only what `vtagent samples` draws:
small printed cards, forms and receipts. Ask anything else of a real model.
"""

SAMPLES = """\
examples:
  # 16 documents, half in large print, half in small
  vtagent samples documents/

  # Small print cannot be read until the model zooms
  vtagent samples small-print/ --count 200 --print small

  # The same documents for everyone who says 7
  vtagent samples documents-7/ --seed 7

DIR gets one PNG per document, and questions.jsonl with one line for each:
  {"image": "0000-large.png", "question": "What is the Total?",
   "answer": "48.10", "print": "large"}
"""


CHAT = """\
examples:
  vtagent chat receipt.png --thread trip

  # Go on tomorrow, with another image
  vtagent chat --thread trip
  › What was the total?
  › /image second.png
  › And here?
  › /quit

  # From a script: a question a line, a JSON object a line
  printf 'What is the Total?\\n' | vtagent chat receipt.png --thread t1 --json

Threads are kept in ~/.local/state/vtagent (see --state). A run that was killed
is finished when its thread is taken up again. `vtagent forget` deletes one.
"""

FORGET = """\
examples:
  vtagent forget trip

  # Its images at once, too, though they were put a moment ago
  vtagent forget trip --grace 0
"""


MODELS = """\
examples:
  # Every known family of models: what a photograph costs whole and low, and how a box is written
  vtagent models

  # Everything that is known of one, with its sources
  vtagent models gpt-4o
  vtagent models anthropic:claude-opus-4-7 --json

D: the vendor's documentation. S: source code. M: measured by users.
?: third party only, or assumed.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of `vtagent` and those of its commands."""
    raw = argparse.RawDescriptionHelpFormatter
    top = _Parser(prog="vtagent", description=OVERVIEW, epilog=EXIT_CODES, formatter_class=raw)
    top.add_argument("--version", action="version", version=f"vtagent {version('vtagent')}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    ask = commands.add_parser(
        "ask",
        help="ask a question about images",
        description=OVERVIEW,
        epilog=ASK + "\n" + EXIT_CODES,
        formatter_class=raw,
    )
    ask.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="an image file")
    ask.add_argument("question", metavar='"QUESTION"', help="in quotes, after the images")
    _add_model_options(ask)
    ask.add_argument("--save-views", metavar="DIR", type=Path, help="write every view that the model saw as a PNG")
    ask.add_argument("--json", action="store_true", help="print one JSON object instead")

    samples = commands.add_parser(
        "samples",
        help="write fresh documents with questions and answers",
        description="Write fresh rendered documents with questions and gold answers.",
        epilog=SAMPLES + "\n" + EXIT_CODES,
        formatter_class=raw,
    )
    samples.add_argument("directory", metavar="DIR", type=Path, help="made if it does not exist")
    samples.add_argument("--count", metavar="N", type=_count, default=16, help="how many documents; default: 16")
    samples.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same documents; default: 0")
    samples.add_argument(
        "--print", choices=["small", "large", "both"], default="both", help="the size of the print; default: both"
    )

    chat = commands.add_parser(
        "chat",
        help="ask one question after another, and go on another day",
        description="Hold a conversation about images that is kept: each line of stdin is a question.",
        epilog=CHAT + "\n" + EXIT_CODES,
        formatter_class=raw,
    )
    chat.add_argument("images", nargs="*", metavar="IMAGE", type=Path, help="shown with the first question")
    chat.add_argument("--thread", metavar="NAME", type=_thread, required=True, help="the conversation's name")
    _add_model_options(chat)
    chat.add_argument("--json", action="store_true", help="print one JSON object for each answer instead")

    forget = commands.add_parser(
        "forget",
        help="delete a conversation and the images that only it showed",
        description="Delete a conversation of `vtagent chat`, and the images that no other one shows.",
        epilog=FORGET + "\n" + EXIT_CODES,
        formatter_class=raw,
    )
    forget.add_argument("thread", metavar="NAME", type=_thread, help="the conversation's name")
    forget.add_argument(
        "--grace",
        metavar="MINUTES",
        type=_count,
        default=60,
        help="images put since then stay: another chat may be about to show them; default: 60",
    )
    models = commands.add_parser(
        "models",
        help="what is known of other people's models: cost of an image, limits, boxes",
        description="List the known models, or print what is known of one, with sources.",
        epilog=MODELS + "\n" + EXIT_CODES,
        formatter_class=raw,
    )
    models.add_argument("name", nargs="?", metavar="NAME", help="such as gpt-4o or ollama:qwen2.5vl:7b")
    models.add_argument("--json", action="store_true", help="print one JSON object instead")

    for parser in (chat, forget):
        parser.add_argument("--state", metavar="DIR", type=Path, help="where conversations are kept; made if missing")

    for parser in (ask, samples, chat, forget, models):
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top, {"ask": ask, "samples": samples, "chat": chat, "forget": forget, "models": models}


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="base or zoom (bundled), a checkpoint's folder or hub id; default: zoom. "
        "With --base-url, a name that is served there; default: the first",
    )
    parser.add_argument(
        "--base-url", metavar="URL", help="ask an OpenAI-compatible server; OPENAI_API_KEY is sent to it if it is set"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=120.0,
        help="how long the server may stay silent, twice, before it is given up; default: 120",
    )
    parser.add_argument(
        "--max-zooms",
        metavar="N",
        type=_count,
        default=1,
        help="how often the model may zoom before it must answer; default: 1",
    )
    parser.add_argument(
        "--zoom-bias",
        metavar="B",
        type=_bias,
        default=0.0,
        help="added to the log-odds of zooming; default: 0. A server gets it as the logit_bias of one token",
    )
    parser.add_argument(
        "--zoom-token-id",
        metavar="ID",
        type=_count,
        help="that token: the served model's <tool_call>. Needed with --zoom-bias where the server is not vLLM, "
        "which tells",
    )


def _thread(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r:.120} is not a name: letters, digits, '.', '-' and '_', 100 at most")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _bias(text: str) -> float:
    try:
        bias = float(text)
    except ValueError:
        bias = math.nan
    if not math.isfinite(bias):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return bias


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)
