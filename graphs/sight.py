"""What a call of the model is still shown of a long conversation: older views give way to notes; the state keeps them.

Two things make views give way: `keep_images`, and what the model's provider takes in one request. The zoom tool judges
a call by the same sight: a view that has given way can be asked for again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage

from vtagent.conversation import image_blocks, name_of
from vtagent.eyes import QWEN_ZOOM, Eyes, Limits, Vision
from vtagent.graphs.intake import without_lost_images
from vtagent.graphs.node import Parts
from vtagent.graphs.state import ZoomContext
from vtagent.images import ImageStore
from vtagent.models.pixel_model import Pixels
from vtagent.models.runnables import AnyModel, chat_models
from vtagent.views import UNSEEN, View, is_reference

__all__ = ["Sight", "as_the_tool_sees"]

_BYTES_PER_PIXEL = 4  # of base64: three bytes a pixel, not compressed at all
_BYTES_PER_TOKEN = 3  # of UTF-8 text: English has more, Chinese about as many
_RESERVED = 0.9  # share of a context that is filled: tools and the prompt's form are not counted
_KEPT = 16


@dataclass(frozen=True)
class Room:
    """What one request to a model may hold; None where no limit is known."""

    limits: tuple[Limits, ...]
    """Of each provider that may be asked."""
    input_tokens: int | None
    """Most tokens of a prompt."""

    def takes(self, shown: Shown) -> bool:
        """Whether a request may hold these views."""
        within = self.input_tokens is None or shown.tokens <= self.input_tokens * _RESERVED
        return within and all(_within(limits, shown) for limits in self.limits)


@dataclass(frozen=True)
class Shown:
    """Views of a request, added up."""

    tokens: int
    """Of the text, estimated, and of the views."""
    images: int = 0
    """A view that stands there twice counts twice."""
    bytes: int = 0
    """Of base64."""
    side: int = 0
    """The longest, in pixels."""

    def and_view(self, view: View, times: int, vision: Vision, *, encoded: int | None = None) -> Shown:
        """These views and another.

        Args:
            view: The other view.
            times: How often it stands there.
            vision: The image sizes that the model sees.
            encoded: The bytes of its base64; None counts as many as there can be.
        """
        width, height = view.size(vision)
        return Shown(
            self.tokens + times * view.tokens(vision),
            self.images + times,
            self.bytes + times * (width * height * _BYTES_PER_PIXEL if encoded is None else encoded),
            max(self.side, width, height),
        )


def _within(limits: Limits, shown: Shown) -> bool:
    if limits.images is not None and shown.images > limits.images:
        return False
    if limits.request_bytes is not None and shown.bytes > limits.request_bytes:
        return False
    # A view that is too long even alone is not made shorter by leaving others out.
    side, alone = limits.side(shown.images), limits.side(1)
    return side is None or shown.side <= side or (alone is not None and shown.side > alone)


class Sight:
    """Decides which views a call of the model is shown.

    Attributes:
        pixels: The pixels of what is shown.

    Args:
        parts: The parts of the graph or the middleware.
        keep_images: For runs whose settings have no `keep_images`.

    Raises:
        ValueError: `keep_images` is below 1.
    """

    def __init__(self, parts: Parts, keep_images: int | None = None) -> None:
        if keep_images is not None and keep_images < 1:
            raise ValueError(f"keep_images must be at least 1, not {keep_images}")
        self._parts, self._keep_images = parts, keep_images
        self.pixels = Pixels(parts.store, parts.eyes)
        self._rooms: OrderedDict[int, tuple[AnyModel, Room]] = OrderedDict()

    def of(
        self,
        messages: Sequence[BaseMessage],
        model: AnyModel,
        settings: ZoomContext,
        *,
        tool_name: str | None,
        system: SystemMessage | None = None,
        numbered: Sequence[BaseMessage] | None = None,
    ) -> list[BaseMessage]:
        """The messages with a note in place of each view that gives way.

        Args:
            messages: A conversation of references, without lost images. Never modified.
            model: The model that is to be called; resolved.
            settings: The settings of the run.
            tool_name: The tool that can show an image again, for the note; None if there is none.
            system: The system message, if it is not one of the messages; it counts and stays.
            numbered: The messages whose images the tool counts, if others than these: other middleware may have
                removed some from the call.

        Returns:
            The messages themselves, in a list, if all views stay.
        """
        blocks = [block["url"] for _, block in image_blocks(messages)]
        if not blocks:
            return list(messages)
        keep = settings.keep_images or self._keep_images
        said = [*messages, system] if system else messages
        kept = self._kept(blocks, keep, self._room(model), said, self._parts.eyes(model))
        if kept is None:
            return list(messages)
        all_urls = [*(block["url"] for _, block in image_blocks(numbered or ())), *blocks]
        numbers, names = _numbers(all_urls), list(map(name_of, all_urls))
        names_kept = {name_of(url) for url in kept}

        def note(block: dict[str, Any]) -> dict[str, Any]:
            number = numbers[name_of(block["url"])]
            what = f"A view of image {number}" if name_of(block["url"]) in names_kept else f"Image {number}"
            # Qwen's tool counts views, not images, and from 0.
            qwen = tool_name == QWEN_ZOOM
            which = f"img_idx={names.index(name_of(block['url']))}" if qwen else f"image={number}"
            again = f" {tool_name} with {which} shows it again." if tool_name else ""
            return {"type": "text", "text": f"[{what} stood here and is no longer shown.{again}]"}

        return _replaced(messages, kept, note)

    def _kept(
        self, blocks: Sequence[str], keep: int | None, room: Room, said: Sequence[BaseMessage], eyes: Eyes
    ) -> set[str] | None:
        """The URLs of the views that stay; None if all do.

        Args:
            blocks: The URLs of all views, in order.
            keep: How many images stay.
            room: What the model takes.
            said: All messages of the call.
            eyes: How the model sees.
        """
        newest = list(dict.fromkeys(name_of(url) for url in reversed(blocks)))
        times = Counter(blocks)
        views = {url: View.from_url(url, self._parts.store) for url in times}
        text = Shown(_text_tokens(said) if room.input_tokens is not None else 0)
        if keep is None or keep >= len(newest):
            whole, vision = text, eyes.vision_for(len(blocks))
            for url, view in views.items():
                whole = whole.and_view(view, times[url], vision)
            if room.takes(whole):
                return None
        # Only now is it worth while to know how large the views are that will be sent. They are kept for that.
        counts_bytes = any(limits.request_bytes is not None for limits in room.limits)
        views_of: dict[str, list[str]] = {}
        for url in views:
            views_of.setdefault(name_of(url), []).append(url)
        # Many images may lower the longest side of each, so views are added up for few images and for many.
        sums = dict.fromkeys((eyes.vision_for(1), eyes.vision_for(len(blocks))), text)
        images, kept = 0, set[str]()
        for name in newest[:keep]:
            # The image as it was first shown matters most: its zooms mean little without it. Then the newest zooms.
            first, *zooms = views_of[name]
            for url in (first, *reversed(zooms)):
                images += times[url]
                encoded = self.pixels.encoded_size(url, eyes, images) if counts_bytes else None
                sums = {
                    vision: shown.and_view(views[url], times[url], vision, encoded=encoded)
                    for vision, shown in sums.items()
                }
                if kept and not room.takes(sums[eyes.vision_for(images)]):
                    return kept
                kept.add(url)
        return None if len(kept) == len(views) else kept

    def _room(self, model: AnyModel) -> Room:
        found = self._rooms.get(id(model))
        if found is not None:
            return found[1]
        models = chat_models(model)
        given = [(each.profile or {}).get("max_input_tokens") for each in models]
        tokens = [count for count in given if isinstance(count, int) and count > 0]
        limits = tuple(self._parts.eyes(each).limits for each in models)
        room = Room(limits, min(tokens, default=None))
        self._rooms[id(model)] = model, room  # keeps the model, so that its id stays its own
        if len(self._rooms) > _KEPT:
            self._rooms.popitem(last=False)
        return room


def as_the_tool_sees(
    messages: Sequence[BaseMessage], seen: Collection[str], store: ImageStore
) -> Sequence[BaseMessage]:
    """The messages for the zoom tool: views out of sight keep their image's number, but do not count as shown.

    Args:
        messages: The conversation. Never modified.
        seen: The URLs of the views that the latest call of the model was shown.
        store: Where the images are.
    """
    found = without_lost_images(messages, store)
    last = max((place for place, message in enumerate(found) if isinstance(message, AIMessage)), default=0)
    in_sight = {*seen, *(block["url"] for _, block in image_blocks(found[last:]))}
    if all(block["url"] in in_sight for _, block in image_blocks(found[:last])):
        return found

    def unseen(block: dict[str, Any]) -> dict[str, Any]:
        return View(View.from_block(block, store).ref, UNSEEN).block()

    return _replaced(found, in_sight, unseen)


def _replaced(
    messages: Sequence[BaseMessage], kept: Collection[str], replacement: Callable[[dict[str, Any]], dict[str, Any]]
) -> list[BaseMessage]:
    """The messages with all views but those in `kept` replaced."""

    def shown(content: Sequence[Any]) -> Iterator[Any]:
        for block in content:
            yield replacement(block) if is_reference(block) and block["url"] not in kept else block

    return [
        message.model_copy(update={"content": list(shown(message.content))})
        if isinstance(message.content, list) and any(is_reference(block) for block in message.content)
        else message
        for message in messages
    ]


def _numbers(urls: Sequence[str]) -> dict[str, int]:
    """Each image's name with its number."""
    return {name: number for number, name in enumerate(dict.fromkeys(map(name_of, urls)), 1)}


def _text_tokens(messages: Sequence[BaseMessage]) -> int:
    """The tokens of the messages' text and calls, estimated, and rather too many than too few."""
    size = 0
    for message in messages:
        size += 12 + _text_bytes(message.content)
        if isinstance(message, AIMessage):
            size += sum(len(str(call["args"])) + 40 for call in message.tool_calls)
    return size // _BYTES_PER_TOKEN


def _text_bytes(content: Any) -> int:
    if isinstance(content, str):
        return len(content) if content.isascii() else len(content.encode(errors="replace"))
    return sum(_text_bytes(block if isinstance(block, str) else str(block.get("text") or "")) for block in content)
