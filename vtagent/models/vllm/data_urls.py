"""Images as data URLs, the form in which a server takes pixels. The most recently used URLs are kept."""

from __future__ import annotations

import threading

from vtagent.lru import LRU
from vtagent.models.engine import EngineImage
from vtagent.models.placeholders import identity
from vtagent.views import data_url


class DataURLs:
    """Data URLs of images, up to a number of characters. Thread-safe.

    Args:
        limit: Maximum total length of the URLs that are kept, in characters.
    """

    def __init__(self, limit: int = 64 * 2**20) -> None:
        self._urls: LRU[str, str] = LRU(limit, size=len)
        self._lock = threading.Lock()

    def of(self, image: EngineImage) -> str:
        """The data URL of an image."""
        key = identity(image)
        with self._lock:
            url = self._urls.get(key)
        if url is None:
            url = data_url(image.pixels)
            with self._lock:
                self._urls.put(key, url)
        return url
