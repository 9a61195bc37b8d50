"""Images as data URLs, the form in which a server takes pixels."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict

from vtagent.models.engine import EngineImage
from vtagent.models.placeholders import identity


class DataURLs:
    """Images as data URLs, without loss, the last used ones kept. Safe to use from several threads."""

    def __init__(self, limit: int = 64 * 2**20) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, image: EngineImage) -> str:
        """An image as a PNG in a data URL."""
        key = identity(image)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        png = io.BytesIO()
        image.pixels.convert("RGB").save(png, "PNG", compress_level=1)
        url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        with self._lock:
            self._size += len(url) - len(self._kept.pop(key, ""))
            self._kept[key] = url
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1])
        return url
