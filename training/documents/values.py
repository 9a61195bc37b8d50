"""Draws the fields of a document: twelve labels, the kind of value of each, and the questions that ask for a value."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass

QUESTIONS = ("What is the {}?", "Which {} is printed?", "Read the {}.", "Please tell me the {}.", "{}?")
"""Every phrasing that the bundled policies know."""

READ_ALL = "Read everything."
"""Asks for all fields, one on each line. Pretraining uses it to teach reading before searching."""

CODE_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
"""Capitals without I, O and Q, because several fonts print these like 1 and 0."""

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
PRINTED = string.digits + string.ascii_letters + ".,-/$:"
"""Every character that a value or a label can contain, except the space."""

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"


@dataclass(frozen=True)
class Field:
    """A printed label and the value beside it."""

    label: str
    """One of `LABELS`; empty for a text without a label."""
    value: str

    def question(self, rng: random.Random) -> str:
        """Draw a question for this field's value."""
        return rng.choice(QUESTIONS).format(self.label)


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _word(rng: random.Random, shortest: int, longest: int) -> str:
    """Make up a pronounceable word. No word list contains it, so a model must read it and cannot guess it."""
    length = rng.randint(shortest, longest)
    start = rng.randint(0, 1)
    letters = [rng.choice(CONSONANTS if (start + i) % 2 else VOWELS) for i in range(length)]
    return "".join(letters).capitalize()


def _name(rng: random.Random) -> str:
    return f"{_word(rng, 3, 5)} {_word(rng, 3, 5)}"


def _date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(10, 39)
    style = rng.randrange(3)
    if style == 0:
        return f"{day:02d}/{month:02d}/{year}"
    if style == 1:
        return f"{day:02d} {MONTHS[month - 1]} {year}"
    return f"20{year}-{month:02d}-{day:02d}"


def _amount(rng: random.Random) -> str:
    sign = rng.choice(("", "$"))
    whole = rng.choice((rng.randint(1, 99), rng.randint(100, 999), rng.randint(1000, 9999)))
    return f"{sign}{whole:,}.{rng.randint(0, 99):02d}"


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choice(CODE_LETTERS) for _ in range(rng.randint(2, 3)))
    return f"{letters}-{_digits(rng, rng.randint(2, 4))}"


KINDS: dict[str, Callable[[random.Random], str]] = {
    "Name": _name,
    "City": lambda rng: _word(rng, 4, 8),
    "Date": _date,
    "Due": _date,
    "Total": _amount,
    "Tax": _amount,
    "Ref": _code,
    "Code": _code,
    "Tel": lambda rng: f"{_digits(rng, 3)}-{_digits(rng, 4)}",
    "ID": lambda rng: _digits(rng, rng.randint(5, 7)),
    "Qty": lambda rng: str(rng.randint(1, 999)),
    "Room": lambda rng: rng.choice(CODE_LETTERS) + _digits(rng, rng.randint(2, 3)),
}
"""Each label with the function that draws its value."""

LABELS = tuple(KINDS)


def draw_fields(rng: random.Random, *, count: int) -> tuple[Field, ...]:
    """Draw `count` fields with different labels."""
    labels = rng.sample(LABELS, count)
    return tuple(Field(label, KINDS[label](rng)) for label in labels)


def draw_page(rng: random.Random) -> tuple[Field, ...]:
    """Draw the fields of a page: two to four, with different labels."""
    return draw_fields(rng, count=rng.randint(2, 4))


def draw_lesson_page(rng: random.Random) -> tuple[Field, ...]:
    """Draw a page as `draw_page` does, but with more letters, because most values are digits."""
    weights = {"Name": 4.0, "City": 4.0, "Ref": 2.0, "Code": 2.0}
    order = sorted(LABELS, key=lambda label: rng.expovariate(weights.get(label, 1.0)))
    return tuple(Field(label, KINDS[label](rng)) for label in order[: rng.randint(2, 4)])


def draw_line(rng: random.Random) -> tuple[Field, ...]:
    """Draw one field or, as often, one run of random characters without a label."""
    if rng.random() < 0.5:
        return draw_fields(rng, count=1)
    return (Field("", "".join(rng.choices(PRINTED, k=rng.randint(5, 12)))),)
