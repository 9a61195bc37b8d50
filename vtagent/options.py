"""The options of the command line, and the help texts that explain them."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import vtagent

EXIT_CODES = """\
exit codes:
  0    success
  1    a bug in vtagent
  2    a wrong option, file or image
  3    an extra is not installed
  4    the model or the server failed
  130  interrupted
  141  the output pipe was closed
"""

OVERVIEW = """\
Ask questions about images, and see how many visual tokens each answer costs.

The model first sees every image at half of both sides, for a quarter of the
visual tokens. It then answers, or calls the tool `zoom_image` to see the whole
image or a region of it at full resolution.
"""

TOP = "`vtagent COMMAND --help` shows examples and the options of a command.\n"

ASK = """\
examples:
  vtagent ask receipt.png "What is the Total?"

  # Two images, and a model that is downloaded from the hub the first time
  vtagent ask front.jpg back.jpg "Who signed?" --model Qwen/Qwen3-VL-2B-Instruct

  # A model on a server: vLLM, or any other OpenAI-compatible server
  vtagent ask receipt.png "Who paid?" --base-url http://localhost:8000/v1

  # Answer without zooming, or zoom up to three times
  vtagent ask receipt.png "What is the Tax?" --max-zooms 0
  vtagent ask receipt.png "What is the Tax?" --max-zooms 3

  # Zoom more often (with a negative number: less often)
  vtagent ask receipt.png "What is the Tax?" --zoom-bias 2

  # Save the exact pixels that the model saw
  vtagent ask receipt.png "What is the Tax?" --save-views seen/

  # Print one JSON object, for scripts
  vtagent ask receipt.png "What is the Tax?" --json

The bundled policies, base and zoom, read only the documents that `vtagent
samples` draws: small printed cards, forms and receipts. Use a real model for
any other image.
"""

SAMPLES = """\
examples:
  # 16 documents, half in large print, half in small
  vtagent samples documents/

  # Small print, which a model can read only after zooming
  vtagent samples small-print/ --count 200 --print small

  # The same seed draws the same documents on every machine
  vtagent samples documents-7/ --seed 7

DIR gets one PNG per document, and questions.jsonl with one line for each:
  {"image": "0000-large.png", "question": "What is the Total?",
   "answer": "48.10", "print": "large"}
"""


CHAT = """\
examples:
  vtagent chat receipt.png --thread trip

  # Continue tomorrow, with another image
  vtagent chat --thread trip
  › What was the total?
  › /image second.png
  › And here?
  › /quit

  # From a script: one question per line in, one JSON object per line out
  printf 'What is the Total?\\n' | vtagent chat receipt.png --thread t1 --json

Lines that begin with a slash and a word are commands: /image PATH, /quit.
Conversations are kept in ~/.local/state/vtagent (see --state). If a run is
killed, the next `vtagent chat` of its thread finishes it first. `vtagent
forget` deletes a conversation.
"""

FORGET = """\
examples:
  vtagent forget trip

  # Delete its images even if they are new and another chat is under way
  vtagent forget trip --grace 0

Images that another conversation shows stay. While a chat is under way, so do
those of the last hour; repeat the command when it has ended.
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


SAVINGS = """\
examples:
  # What every known model bills for these images: whole, as low views, with a zoom
  vtagent savings receipt.png photo.jpg

  # Two models only, as JSON
  vtagent savings receipt.png --for claude --for gpt-4o --json

  # The same as a figure (needs the extra samples)
  vtagent savings receipt.png --figure savings.png

No model is called and no key is needed: the providers' own rules are applied to
the sizes of the images. `vtagent models NAME` shows a rule and its sources.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Builds the parsers of the command line.

    Returns:
        The parser of `vtagent`, and the parsers of its commands by name.
    """
    raw = argparse.RawDescriptionHelpFormatter
    top = _Parser(prog="vtagent", description=OVERVIEW, epilog=f"{TOP}\n{EXIT_CODES}", formatter_class=raw)
    top.add_argument("--version", action="version", version=f"vtagent {vtagent.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str, summary: str, description: str, examples: str, add_options: Callable[[_Parser], None]
    ) -> _Parser:
        """Adds a command with its help, its own options, and the option that all commands share."""
        parser = commands.add_parser(
            name, help=summary, description=description, epilog=f"{examples}\n{EXIT_CODES}", formatter_class=raw
        )
        add_options(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return parser

    return top, {
        "ask": command("ask", "ask one question about images", OVERVIEW, ASK, _add_ask_options),
        "samples": command(
            "samples",
            "draw new documents with questions and answers",
            "Draw new documents, and write questions about them with their gold answers.",
            SAMPLES,
            _add_samples_options,
        ),
        "chat": command(
            "chat",
            "hold a conversation about images that you can continue later",
            "Hold a conversation about images that you can continue later. Each line of\nstdin is a question.",
            CHAT,
            _add_chat_options,
        ),
        "forget": command(
            "forget",
            "delete a conversation, and the images that only it shows",
            "Delete a conversation of `vtagent chat`, and the images that only it shows.",
            FORGET,
            _add_forget_options,
        ),
        "models": command(
            "models",
            "show what is known of other people's models: cost of an image, limits, boxes",
            "List the known models, or print what is known of one, with sources.",
            MODELS,
            _add_models_options,
        ),
        "savings": command(
            "savings",
            "show what images cost each known model, whole and looked at cheaply first",
            "Show what each known model bills for images at full resolution at once, for\ntheir low views, and for "
            "low views and a zoom. No model is called.",
            SAVINGS,
            _add_savings_options,
        ),
    }


def _add_ask_options(parser: _Parser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="an image file")
    parser.add_argument("question", metavar='"QUESTION"', help="the question, in quotes, after the images")
    _add_model_options(parser)
    parser.add_argument("--save-views", metavar="DIR", type=Path, help="save every view that the model sees as a PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_samples_options(parser: _Parser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to write; created if missing")
    parser.add_argument("--count", metavar="N", type=_count, default=16, help="number of documents; default: 16")
    parser.add_argument(
        "--seed", metavar="S", type=int, default=0, help="the same seed draws the same documents; default: 0"
    )
    parser.add_argument(
        "--print", choices=["small", "large", "both"], default="both", help="size of the print; default: both"
    )


def _add_chat_options(parser: _Parser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE", type=Path, help="an image to show with the next question")
    parser.add_argument(
        "--thread", metavar="NAME", type=_thread, required=True, help="name of the conversation to start or continue"
    )
    _add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per answer instead of text")
    _add_state_option(parser)


def _add_forget_options(parser: _Parser) -> None:
    parser.add_argument("thread", metavar="NAME", type=_thread, help="name of the conversation to delete")
    parser.add_argument(
        "--grace",
        metavar="MINUTES",
        type=_count,
        help="keep images that were added within this time, since a chat that is under way may need them; default: 60 "
        "while a chat is under way, else 0",
    )
    _add_state_option(parser)


def _add_models_options(parser: _Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="such as gpt-4o or ollama:qwen2.5vl:7b")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def _add_savings_options(parser: _Parser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="an image file")
    parser.add_argument(
        "--for",
        dest="models",
        metavar="NAME",
        action="append",
        default=[],
        help="only this model (claude, gpt, qwen, gemini or a model's name); repeat it for several; default: all known",
    )
    parser.add_argument("--figure", metavar="FILE", type=_figure, help="draw a figure: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def zoom_token_id(options: argparse.Namespace, name: str) -> int | None:
    """The id of the token that `--zoom-bias` raises; None without a bias, and for a local model, which knows its own.

    Args:
        options: The parsed options of `ask` or `chat`.
        name: The served model's name. The server is asked for the id if `--zoom-token-id` is absent.

    Raises:
        ModelError: The id is neither given nor told by the server, or the server does not answer.
    """
    if not options.base_url or not options.zoom_bias:
        return None
    if options.zoom_token_id is not None:
        return int(options.zoom_token_id)
    from vtagent.models.openai_server import call_token_id

    return call_token_id(name, options.base_url, options.timeout)


def _add_model_options(parser: _Parser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a bundled policy (base or zoom), or the folder or hub id of a checkpoint; default: zoom. "
        "With --base-url: a model of the server; default: its only one",
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="use a model on this OpenAI-compatible server; OPENAI_API_KEY is sent to it, if set",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=120.0,
        help="how long to wait for a server that sends nothing; a request for an answer is retried once; default: 120",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="where a local model runs, such as cpu or cuda:1; auto spreads it over all GPUs; default: a GPU if there "
        "is one",
    )
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        help="number format of a local model's weights; default: what is fast on the device",
    )
    parser.add_argument(
        "--memory",
        metavar="GIB",
        type=_gibibytes,
        help="memory of a local model for keys, values and image features, besides its weights; default: four fifths "
        "of what a GPU has free, half of what a CPU has",
    )
    parser.add_argument(
        "--max-zooms",
        metavar="N",
        type=_count,
        default=1,
        help="how often the model may zoom before it must answer; default: 1",
    )
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=_positive,
        help="most tokens of one reply, its thought included; a reply that is cut gives no answer; default: 8192, or "
        "the server's own limit",
    )
    parser.add_argument(
        "--zoom-bias",
        metavar="B",
        type=_bias,
        default=0.0,
        help="number to add to the log-odds of zooming; default: 0. A server receives it as the logit_bias of one "
        "token, <tool_call>, which acts on the whole reply: keep it between -5 and 5 there",
    )
    parser.add_argument(
        "--zoom-token-id",
        metavar="ID",
        type=_count,
        help="id of the token <tool_call> of the server's model; --zoom-bias needs it, except with vLLM, which "
        "reports it",
    )


def _add_state_option(parser: _Parser) -> None:
    parser.add_argument(
        "--state", metavar="DIR", type=Path, help="folder that keeps the conversations; created if missing"
    )


def _thread(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r:.120} is not a name: letters, digits, '.', '-' and '_', 100 at most")
    return text


def _figure(text: str) -> Path:
    if (path := Path(text)).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text!r:.120} ends in none of .png, .svg, .pdf")
    return path


def _seconds(text: str) -> float:
    if not 0 < (seconds := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _gibibytes(text: str) -> float:
    if not 0 < (size := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GiB above 0")
    return size


def _bias(text: str) -> float:
    if not math.isfinite(bias := _number(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return bias


def _number(text: str) -> float:
    """Returns `text` as a number, or NaN if it is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _positive(text: str) -> int:
    if not (number := _count(text)):
        raise argparse.ArgumentTypeError("0 is too few: ask for at least 1")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
