"""Draws the text of a page with sections: kinds of sections, the labels of each kind, titles and questions.

Each label belongs to two kinds of sections. A question names the section whenever more than one section on the page
could hold the label, so the headings always tell where to look, even if labels are too small to be read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from vtagent.training.documents.values import CODE_LETTERS, KINDS, QUESTIONS, Field

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Delivery": ("Date", "City", "Zip", "Time", "Total"),
    "Billing": ("Name", "Total", "Tax", "Due", "Ref"),
    "Customer": ("Name", "ID", "Tel", "City", "Zip"),
    "Supplier": ("Agent", "Tel", "Code", "Fee", "ID"),
    "Payment": ("Paid", "Due", "Tax", "Date", "Ref"),
    "Shipping": ("Weight", "Box", "Fee", "Time", "Lot"),
    "Storage": ("Room", "Lot", "Qty", "Box", "Weight"),
    "Booking": ("Agent", "Room", "Qty", "Code", "Paid"),
}
"""Each kind of section, by its heading, with the labels that it may hold."""

TITLES = ("Invoice", "Ticket", "Notice", "Claim", "Order", "Record", "Memo", "Permit")
"""What a page can be. None has a descender, which would reach into the first section."""

WHICH_PAGE = "Which page is {}?"
"""Asks for the number of the page with a title, counted from 1."""

ZOOM_INTO = "Zoom into {}."
"""Tells to look at the section with a heading."""

PAGE_KINDS: Mapping[str, Callable[[random.Random], str]] = {
    **KINDS,
    "Time": lambda rng: f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
    "Zip": lambda rng: "".join(rng.choices("0123456789", k=5)),
    "Lot": lambda rng: rng.choice(CODE_LETTERS) + "".join(rng.choices("0123456789", k=rng.randint(3, 4))),
    "Box": lambda rng: f"{rng.choice(CODE_LETTERS)}{rng.choice(CODE_LETTERS)}{rng.randint(10, 99)}",
    "Weight": lambda rng: f"{rng.randint(1, 99)}.{rng.randint(0, 9)} kg",
    "Fee": KINDS["Total"],
    "Paid": KINDS["Total"],
    "Agent": KINDS["Name"],
}
"""Each label of a page with the function that draws its value."""

PAGE_LABELS = tuple(PAGE_KINDS)
NEW_LABELS = tuple(label for label in PAGE_LABELS if label not in KINDS)
"""The labels that occur on pages and not on cards."""


@dataclass(frozen=True)
class Asked:
    """What a question asks for, in words."""

    label: str
    section: str | None
    """The heading that the question names."""
    title: str | None = None
    """The title that the question names, where a conversation has several pages."""

    def words(self) -> str:
        """Such as "Total in Delivery on Order 47"."""
        place = f" in {self.section}" if self.section else ""
        return f"{self.label}{place}{f' on {self.title}' if self.title else ''}"

    def question(self, rng: random.Random) -> str:
        """Draw a phrasing."""
        return rng.choice(QUESTIONS).format(self.words())


def draw_title(rng: random.Random) -> str:
    """Draw the title of a page, such as "Order 47"."""
    return f"{rng.choice(TITLES)} {rng.randint(10, 99)}"


def draw_section(rng: random.Random, kind: str, count: int) -> tuple[Field, ...]:
    """Draw `count` fields of a kind of section, with different labels.

    Raises:
        ValueError: The kind has fewer labels.
    """
    if not 1 <= count <= len(SECTIONS[kind]):
        raise ValueError(f"a {kind} section holds 1 to {len(SECTIONS[kind])} fields, not {count}")
    return tuple(Field(label, PAGE_KINDS[label](rng)) for label in rng.sample(SECTIONS[kind], count))


def holders(label: str, headings: Collection[str]) -> list[str]:
    """The headings on a page under which a label could stand."""
    return [heading for heading in headings if label in SECTIONS[heading]]


def asked_for(rng: random.Random, label: str, heading: str, headings: Sequence[str]) -> Asked:
    """How a question asks for a label in a section. It names the section where it must, and else half of the time."""
    must_be_named = len(holders(label, headings)) > 1
    return Asked(label, heading if must_be_named or rng.random() < 0.5 else None)


def draw_absent(
    rng: random.Random, printed: Mapping[str, Collection[str]], *, elsewhere: bool = False
) -> tuple[Asked, str | None]:
    """Draw a question whose answer is not on the page.

    Args:
        rng: Draws it.
        printed: The labels that are printed, by heading.
        elsewhere: Whether to ask for a label that is printed under another heading than the one that is named, if there
            is one.

    Returns:
        What is asked for, and the heading of the section that must be read to know; None if the headings alone tell.
    """
    unprinted = [
        (heading, label) for heading, labels in printed.items() for label in SECTIONS[heading] if label not in labels
    ]
    if elsewhere:
        anywhere = {label for labels in printed.values() for label in labels}
        contested = [(heading, label) for heading, label in unprinted if label in anywhere]
        if contested:
            heading, label = rng.choice(contested)
            return Asked(label, heading), heading
    if unprinted and rng.random() < 0.5:
        heading, label = rng.choice(unprinted)
        return asked_for(rng, label, heading, tuple(printed)), heading
    heading = rng.choice([heading for heading in SECTIONS if heading not in printed])
    return Asked(rng.choice(SECTIONS[heading]), heading), None
