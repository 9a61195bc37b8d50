"""Images as data URLs, the form in which a server takes pixels; those used last are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict

from vtagent.models.engine import EngineImage
from vtagent.models.placeholders import identity
from vtagent.views import data_url


class DataURLs:
    """Data URLs of images, up to a number of characters. Safe to use from several threads."""

    def __init__(self, limit: int = 64 * 2**20) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, image: EngineImage) -> str:
        """The data URL of an image."""
        key = identity(image)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        url = data_url(image.pixels)
        with self._lock:
            self._size += len(url) - len(self._kept.pop(key, ""))
            self._kept[key] = url
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1])
        return url
