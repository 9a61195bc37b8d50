"""The options of the command line. `vtagent.help_texts` has the longer texts that explain them."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import vtagent
from vtagent.help_texts import ASK, CHAT, DOCQA, EXIT_CODES, FORGET, MCP, MODELS, OVERVIEW, SAMPLES, SAVINGS, TOP


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
        "docqa": command(
            "docqa",
            "ask about documents of many pages, and see where the answer stands",
            "Ask about PDFs, scans and folders of images. The pages that the words of the\nquestion point to are "
            "looked at first, small; the answer names its place.",
            DOCQA,
            _add_docqa_options,
        ),
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
        "mcp": command(
            "mcp",
            "serve images to an agent that speaks MCP",
            "Serve the tools list_images, open, look, zoom_image, search_pages, view_page,\nsavings and ask to an "
            "agent that speaks MCP, over stdin and stdout or over HTTP on this machine.",
            MCP,
            _add_mcp_options,
        ),
    }


def _add_ask_options(parser: _Parser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="an image file")
    parser.add_argument("question", metavar='"QUESTION"', help="the question, in quotes, after the images")
    _add_model_options(parser)
    parser.add_argument("--save-views", metavar="DIR", type=Path, help="save every view that the model sees as a PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_docqa_options(parser: _Parser) -> None:
    parser.usage = 'vtagent docqa [options] FILE [FILE ...] "QUESTION"'
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="PDFs, multi-page TIFFs, images, folders of these; then the question, in quotes, unless --batch or --chat "
        "is given",
    )
    parser.add_argument("--page", metavar="PAGES", help="look at these pages only, such as 3, 3-7 or 1,4-6")
    parser.add_argument(
        "--ocr",
        choices=["auto", "rapidocr", "tesseract", "none"],
        default="none",
        help="read pages that have no text layer with this program, so that they are found by their words; "
        "auto: the one that is installed; default: none, such pages are looked at by the model",
    )
    parser.add_argument(
        "--save-evidence", metavar="DIR", type=Path, help="save each cited page with its places in boxes"
    )
    parser.add_argument("--batch", metavar="FILE", type=Path, help='JSON Lines with a "question" each; resumes')
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="where --batch writes a line an answer; default: FILE.answers.jsonl"
    )
    parser.add_argument(
        "--workers", metavar="N", type=_positive, default=4, help="questions of --batch under way together; default: 4"
    )
    parser.add_argument("--chat", action="store_true", help="answer each line of stdin as a question")
    parser.add_argument(
        "--max-pages", metavar="N", type=_positive, default=24, help="most pages to look at for a question; default: 24"
    )
    parser.add_argument("--max-visual-tokens", metavar="N", type=_count, help="most visual tokens for a question")
    parser.add_argument("--max-seconds", metavar="S", type=_seconds, help="begin no look after so many seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object per answer instead of text")
    _add_model_options(parser)


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
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="an image, a PDF, or a folder of these")
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


def _add_mcp_options(parser: _Parser) -> None:
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        action="append",
        required=True,
        help="a folder whose images may be read; repeat it for several",
    )
    parser.add_argument(
        "--for",
        dest="client",
        metavar="NAME",
        default="claude",
        help="the agent's model: claude, gpt, qwen, gemini or a model's name; default: claude",
    )
    parser.add_argument("--http", metavar="PORT", type=_port, help="serve HTTP on 127.0.0.1 instead; 0: a free port")
    _add_model_options(parser, unnamed="without it and --base-url there is no tool ask")


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


def _add_model_options(parser: _Parser, *, unnamed: str = "default: zoom") -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"a bundled policy (base or zoom), or the folder or hub id of a checkpoint; {unnamed}. "
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


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r:.120} is not a port: 0 to 65535")
    return int(text)


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
