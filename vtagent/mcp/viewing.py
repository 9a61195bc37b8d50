"""What an agent is shown of an image: a low view or a region, encoded, and words that say what is seen and how large.

It keeps no conversation: an agent may have several at once, and what is still in its sight is not known. So a box is
always placed on the image or on its low view, never on what was shown last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vtagent.encoding import EncodedImage, Encoding
from vtagent.errors import ImageTooLarge
from vtagent.eyes import Eyes, eyes_of
from vtagent.eyes.assistants import ASSISTANTS
from vtagent.eyes.rules import Gemini3Grid, GptTiles
from vtagent.images import ImageRef, MemoryImageStore
from vtagent.mcp.folders import Folders
from vtagent.pages.library import Library, PageAt
from vtagent.regions import Region, parse_region
from vtagent.savings import LOW_SCALE, Bill, bill_of
from vtagent.views import View, ViewRenderer

__all__ = ["Shown", "Viewer", "eyes_over_mcp"]

MOST_BYTES = 700_000
"""Most bytes of an encoded view. In base64 it is below a megabyte, beyond which common clients cut a tool's reply."""

_MANY = 1_000_000

_BOXES = {
    "thousandths": "[x1, y1, x2, y2]: left, top, right, bottom, from 0 to 1000 of the image's width and height.",
    "thousandths, y first": (
        "[y1, x1, y2, x2]: top, left, bottom, right, from 0 to 1000 of the image's height and width."
    ),
    "pixels as shown": (
        "[x1, y1, x2, y2]: left, top, right, bottom, in pixels of the low view that `look` shows of this image, also "
        "after a zoom."
    ),
}


@dataclass(frozen=True)
class Shown:
    """A reply to the agent.

    Attributes:
        text: What is seen, and how large.
        image: The pixels; None where there are none.
        facts: The same for a program.
    """

    text: str
    image: EncodedImage | None = None
    facts: dict[str, Any] | None = None


def eyes_over_mcp(eyes: Eyes) -> Eyes:
    """Returns how a model sees images that come from an MCP server.

    No `detail` and no `media_resolution` travels with them. How many images the client's request will hold is not
    known, so no view is larger than a request with many images allows.
    """
    rule = eyes.vision.without_setting() if isinstance(eyes.vision, GptTiles | Gemini3Grid) else eyes.vision
    bounded = replace(eyes, vision=rule, low_setting=None)
    return replace(bounded, vision=bounded.vision_for(_MANY))


class Viewer:
    """Shows the images of some folders to one kind of model.

    Args:
        folders: Where the images are.
        eyes: How the client's model sees; see `eyes_for`.
        store: Holds the images that were shown lately.
    """

    def __init__(self, folders: Folders, eyes: Eyes, store: MemoryImageStore | None = None) -> None:
        self.folders = folders
        self.eyes = eyes_over_mcp(eyes)
        # With no grace, old images give way to new ones: the files are still there.
        self.store = store or MemoryImageStore(max_bytes=2**28, kept_pixels=2**26, grace=0)
        self._renderer = ViewRenderer(self.store, self.eyes.vision, cache_size=2**25, encoded_size=2**25)

    @property
    def boxes(self) -> str:
        """How the model is told to write a region."""
        return _BOXES[self.eyes.boxes]

    def list_images(self, folder: str = "", contains: str = "") -> Shown:
        """Returns the names of the images, a line each; see `Folders.list_images`."""
        listing = self.folders.list_images(folder, contains)
        lines = [f"{name}  {_bytes(size)}" for name, size in listing.images] or ["No images."]
        if listing.more:
            lines.append(f"… and {listing.more} more: name a folder, or a part of the name in `contains`.")
        if not listing.complete:
            lines.append("The folders hold more files than are looked at; name a folder to see what is in it.")
        return Shown("\n".join(lines), facts={"images": [name for name, _ in listing.images], "more": listing.more})

    def open(self, image: str) -> Shown:
        """Returns the size of an image and what it costs, without its pixels."""
        ref = self.folders.put(image, self.store)
        bill = bill_of([ref], self.eyes.vision)
        low = self._low(ref)[0]
        text = f"{image}: {ref.mime_type}, {ref.width} × {ref.height} pixels. {self._costs(low, bill)}"
        return Shown(text, facts={**_facts(low, self.eyes), "whole_tokens": bill.whole})

    def look(self, image: str) -> Shown:
        """Returns the low view of an image."""
        ref = self.folders.put(image, self.store)
        view, encoded = self._low(ref)
        width, height = view.size(self.eyes.vision)
        costs = self._costs(view, bill_of([ref], self.eyes.vision))
        text = (
            f"{image} ({ref.width} × {ref.height} pixels), the whole image, shown at {width} × {height}. {costs} "
            f"For what is too small to read, call zoom_image with a region: {self.boxes}"
        )
        return Shown(text, encoded, _facts(view, self.eyes))

    def zoom_image(self, image: str, region: object = None) -> Shown:
        """Returns a region of an image, or all of it, at full resolution.

        Args:
            image: As for `look`.
            region: In the model's convention; None is the whole image.

        Raises:
            RegionError: The box cannot be in that convention.
            ImageError: As `Folders.put`; or the part does not fit into a reply.
        """
        ref = self.folders.put(image, self.store)
        low = self._low(ref)[0]
        pixels = self.eyes.boxes == "pixels as shown"
        box = parse_region(
            region,
            width=ref.width,
            height=ref.height,
            boxes=self.eyes.boxes,
            shown=low.size(self.eyes.vision) if pixels else None,
            part=low.box if pixels else None,
            name="region",
        )
        view = View(ref, region=None if box is None else box.fitted(ref.width, ref.height, self.eyes.vision))
        encoded = self._renderer.encode(view, Encoding(lossy=True, max_bytes=MOST_BYTES))
        width, height = view.size(self.eyes.vision)
        text = (
            f"{image} ({ref.width} × {ref.height} pixels), {self._part(view)}, shown at {width} × {height}: "
            f"{view.tokens(self.eyes.vision):,} tokens.{self._boxes_after(low)}"
        )
        return Shown(text, encoded, _facts(view, self.eyes))

    def search_pages(self, documents: Sequence[str], words: str) -> Shown:
        """Returns the pages whose words a question shares, best first, with a part of their text.

        Args:
            documents: Their names.
            words: The question, or words of it.

        Raises:
            ImageError: As `Folders.document`.
        """
        from vtagent.pages.search import PageSearch, told

        library = Library([self.folders.document(name, self.store) for name in documents], self.store)
        search = PageSearch(library=library)

        def name(at: PageAt) -> str:
            record = library.record(at)
            return f"{record['name']}#page={at.page}" if record["url"] else record["name"]

        text, found = told(search, words, name)
        return Shown(text, facts={"pages": [name(at) for at in found], "blank": len(search.blank)})

    def view_page(self, document: str, page: int) -> Shown:
        """Returns the low view of a page; see `look`."""
        return self.look(f"{document}#page={page}")

    def savings(self, images: Sequence[str]) -> Shown:
        """Returns what images cost the client's model, and the four assistants, at once and looked at cheaply first."""
        refs = [self.folders.put(image, self.store) for image in images]
        bills = {f"this client's model ({self.eyes.name})": bill_of(refs, self.eyes.vision)}
        for model in ASSISTANTS.values():
            eyes = eyes_of(model)
            bills.setdefault(eyes.name, bill_of(refs, eyes.vision))
        lines = [
            f"{name}: {bill.whole:,} tokens at once, {bill.low:,} low ({bill.low_share:.0%}), "
            f"{bill.low_and_zoom:,} low and one zoom each ({bill.low_and_zoom_share:.0%})"
            for name, bill in bills.items()
        ]
        facts = {name: {"whole": b.whole, "low": b.low, "low_and_zoom": b.low_and_zoom} for name, b in bills.items()}
        return Shown("\n".join(lines), facts={"bills": facts})

    def _low(self, ref: ImageRef) -> tuple[View, EncodedImage]:
        """The low view: half of both sides, less where it does not fit into a reply. It depends on the image alone."""
        scale = LOW_SCALE
        while True:
            view = View(ref, scale)
            try:
                return view, self._renderer.encode(view, Encoding(lossy=True, max_bytes=MOST_BYTES))
            except ImageTooLarge:
                if scale < LOW_SCALE / 16:
                    raise
            scale /= 2

    def _costs(self, low: View, bill: Bill) -> str:
        return f"This low view: {low.tokens(self.eyes.vision):,} tokens; at full resolution: {bill.whole:,}."

    def _part(self, view: View) -> str:
        if view.region is None:
            return "the whole image"
        if self.eyes.boxes == "pixels as shown":
            left, top, right, bottom = (round(value / 10) for value in view.region)
            return f"from {left} % to {right} % of the width and from {top} % to {bottom} % of the height"
        x1, y1, x2, y2 = view.region
        return f"region {[y1, x1, y2, x2] if self.eyes.boxes == 'thousandths, y first' else [x1, y1, x2, y2]}"

    def _boxes_after(self, low: View) -> str:
        if self.eyes.boxes != "pixels as shown":
            return ""
        width, height = low.size(self.eyes.vision)
        return f" The next region of this image is again in pixels of its low view, {width} × {height}."


def _facts(view: View, eyes: Eyes) -> dict[str, Any]:
    """A view for a program, as a run's `views` have it."""
    width, height = view.size(eyes.vision)
    region: Region | None = view.region
    return {
        "url": view.url,
        "region": None if region is None else list(region),
        "width": width,
        "height": height,
        "tokens": view.tokens(eyes.vision),
    }


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"
