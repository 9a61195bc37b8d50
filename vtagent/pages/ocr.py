"""Text of pages that have no text layer: recognised once for each image, and kept beside the file in the store.

`rapidocr` brings its models along and runs offline (extra `ocr`); `tesseract` is used where the program is installed.
Both find out how a scan lies, and give the turn by which it stands upright.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

from PIL import Image

from vtagent.encoding import encode
from vtagent.errors import ModelError, UnreadableImage, one_line
from vtagent.names import ImageName
from vtagent.pages.words import PageText, Word
from vtagent.pixels import turned
from vtagent.store import ImageStore

__all__ = ["Ocr", "OcrName", "RapidOcr", "Recognised", "Tesseract", "find_ocr", "recognised"]

OcrName: TypeAlias = Literal["auto", "rapidocr", "tesseract", "none"]
"""Which program reads scans; "auto" is the first that is installed."""

_LONGEST = 2400
"""Pixels of the longer side of what a program is given: A4 at 200 dots per inch."""


@dataclass(frozen=True)
class Recognised:
    """What stands on a page.

    Attributes:
        words: The words, on the upright page.
        turn: Degrees by which the page must be turned clockwise to stand upright.
    """

    words: tuple[Word, ...]
    turn: int = 0


class Ocr(ABC):
    """A program that recognises text. Threads may share it."""

    name: str
    """Names the program and its version: what it has recognised is kept under it."""

    @abstractmethod
    def read(self, image: Image.Image) -> Recognised:
        """Recognises the text on an RGB image of a page.

        Raises:
            ModelError: The program failed.
        """


class RapidOcr(Ocr):
    """The models of PaddleOCR, with `rapidocr` and `onnxruntime`.

    Raises:
        ModuleNotFoundError: The extra `ocr` is not installed.
    """

    def __init__(self) -> None:
        import onnxruntime  # noqa: F401 (rapidocr imports it late, in its own words)
        from rapidocr import RapidOCR

        settings = {"Global.log_level": "critical", "Global.text_score": 0.3}
        self._engine: Any = RapidOCR(params=settings)
        self._lock = threading.Lock()
        self.name = f"rapidocr-{version('rapidocr')}"

    def read(self, image: Image.Image) -> Recognised:
        """As `Ocr.read`."""
        words, score, tall = self._pass(image)
        # Lines that lie on their side are read after a quarter turn to the left, so a good score tells which side.
        turn = (270 if score > _CLEAR else 90) if tall else 0 if score > _CLEAR else 180
        if turn and words:
            other, other_score, still_tall = self._pass(turned(image, turn))
            if other_score > score or (tall and not still_tall and other_score > _CLEAR):
                return Recognised(other, turn)
            if tall and other_score <= _CLEAR:
                turn = 360 - turn
                opposite, opposite_score, _ = self._pass(turned(image, turn))
                if opposite_score > max(score, other_score):
                    return Recognised(opposite, turn)
        return Recognised(words, 0)

    def _pass(self, image: Image.Image) -> tuple[tuple[Word, ...], float, bool]:
        """The words, the mean score of a letter, and whether most lines lie on their side."""
        import numpy

        pixels = numpy.ascontiguousarray(numpy.asarray(image)[:, :, ::-1])
        with self._lock:
            try:
                found = self._engine(pixels, use_cls=False, return_word_box=True)
            except Exception as error:
                raise ModelError(f"rapidocr failed: {one_line(error)}") from error
        if found.boxes is None or not found.txts:
            return (), 0.0, False
        letters = [len(text) for text in found.txts]
        score = sum(len(text) * each for text, each in zip(found.txts, found.scores, strict=True)) / max(
            1, sum(letters)
        )
        sides = [box.max(axis=0) - box.min(axis=0) for box in found.boxes]
        tall = sum(n for n, side in zip(letters, sides, strict=True) if side[1] > 1.5 * side[0]) > sum(letters) / 2
        words = []
        for line, parts in enumerate(found.word_results):
            for text, _, corners in parts:
                xs, ys = [x for x, _ in corners], [y for _, y in corners]
                words += _split(text, (min(xs), min(ys), max(xs), max(ys)), image.size, line)
        return tuple(words), score, tall


_CLEAR = 0.9
"""Mean score of a letter above which a page has been read the right way up."""


class Tesseract(Ocr):
    """The program `tesseract`.

    Args:
        program: Its path.
        languages: Its languages, as it names them.

    Raises:
        ModelError: It cannot be run.
    """

    def __init__(self, program: str = "tesseract", languages: str = "eng") -> None:
        self._program, self._languages = program, languages
        said = self._run(["--version"], b"").split()
        self.name = f"tesseract-{said[1] if len(said) > 1 else 'unknown'}-{languages}"

    def read(self, image: Image.Image) -> Recognised:
        """As `Ocr.read`."""
        turn = self._turn(image)
        upright = turned(image, turn)
        table = self._run(
            ["stdin", "stdout", "-l", self._languages, "--psm", "3", "--dpi", "200", "tsv"], encode(upright).data
        )
        words: list[Word] = []
        lines: dict[tuple[str, ...], int] = {}
        for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["level"] == "5" and row["text"].strip() and float(row["conf"]) >= 30:
                key = row["block_num"], row["par_num"], row["line_num"]
                line = lines.setdefault(key, len(lines))
                left, top = int(row["left"]), int(row["top"])
                box = left, top, left + int(row["width"]), top + int(row["height"])
                words += _split(row["text"], box, upright.size, line)
        return Recognised(tuple(words), turn)

    def _turn(self, image: Image.Image) -> int:
        try:
            said = self._run(["stdin", "stdout", "--psm", "0", "--dpi", "200"], encode(image).data)
        except ModelError:  # too few letters to tell
            return 0
        facts = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
        return int(facts.get("Rotate", "0")) if float(facts.get("Orientation confidence", "0")) > 1 else 0

    def _run(self, arguments: Sequence[str], data: bytes) -> str:
        try:
            done = subprocess.run([self._program, *arguments], input=data, capture_output=True, timeout=300, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise ModelError(f"tesseract failed: {one_line(error)}") from error
        return done.stdout.decode("utf-8", "replace")


def _split(text: str, box: Sequence[float], size: tuple[int, int], line: int) -> list[Word]:
    """The words of a text that was recognised as one, each with its share of the box."""
    left, top, right, bottom = box
    width, height = size
    step = (right - left) / max(1, len(text))
    words, start = [], 0
    for part in text.split():
        at = text.index(part, start)
        start = at + len(part)
        sides = (left + at * step) / width, top / height, (left + start * step) / width, bottom / height
        left_side, top_side, right_side, bottom_side = (round(min(1.0, max(0.0, float(side))), 5) for side in sides)
        words.append(Word(part, left_side, top_side, right_side, bottom_side, line))
    return words


@lru_cache(maxsize=4)
def find_ocr(name: OcrName = "auto") -> Ocr | None:
    """Returns the program that reads scans; None if there is none, or none is wanted.

    Args:
        name: Which one.

    Raises:
        ModuleNotFoundError: "rapidocr" is wanted, and the extra `ocr` is not installed.
        ModelError: "tesseract" is wanted and not installed, or there is no such program.
    """
    match name:
        case "none":
            return None
        case "auto":
            if importlib.util.find_spec("rapidocr") and importlib.util.find_spec("onnxruntime"):
                return RapidOcr()
            return Tesseract() if shutil.which("tesseract") else None
        case "rapidocr":
            return RapidOcr()
        case "tesseract":
            if shutil.which("tesseract") is None:
                raise ModelError("tesseract is not installed: install it, or pip install 'vtagent[ocr]'")
            return Tesseract()
    raise ModelError(f"no OCR program {name!r}: choose auto, rapidocr, tesseract or none")


_KEPT_FORM = 1
"""Raised when what is kept beside a file changes its form: older notes are then not read."""


def recognised(id: str, store: ImageStore, ocr: Ocr) -> tuple[PageText, int]:
    """The text of an image or a page, recognised at most once: it is kept beside the file.

    Args:
        id: The id of the page, as the file turns it.
        store: The store.
        ocr: The program that recognises it.

    Returns:
        The text of the upright page, and the turn by which the page stands upright, in degrees clockwise.

    Raises:
        ImageNotFound, ImageTampered, UnreadableImage, ImageTooLarge: As in `ImageStore.ref`.
        ModelError: The program failed.
    """
    name = ImageName.parse(id)
    kind = f"{ocr.name}-{_KEPT_FORM}-{name.page or 0}-{name.turn}"
    if (note := _kept(store.note(name.sha256, kind))) is None:
        ref = store.ref(id)
        scale = min(1.0, _LONGEST / max(ref.width, ref.height))
        size = max(1, round(ref.width * scale)), max(1, round(ref.height * scale))
        note = ocr.read(store.part(id, (0, 0, ref.width, ref.height), size))
        words = [[w.text, w.left, w.top, w.right, w.bottom, w.line] for w in note.words]
        store.put_note(name.sha256, kind, json.dumps({"turn": note.turn, "words": words}).encode())
    return PageText(note.words, "ocr" if note.words else "none"), note.turn


def _kept(data: bytes | None) -> Recognised | None:
    if data is None:
        return None
    try:
        read = json.loads(data)
        return Recognised(tuple(Word(*word) for word in read["words"]), int(read["turn"]))
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableImage(f"what was recognised is kept in a broken note ({one_line(error)}): delete it") from error
