"""Plain HTTP requests to the stand-in servers, and small images for them."""

from __future__ import annotations

import base64
import copy
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tests.image_samples import encode, solid
from tests.wire.server import Format, Server

Change = Callable[[dict[str, Any]], Any]
"""Changes a good request into a bad one."""
Bad = dict[str, tuple[Change, str]]
"""Bad requests by name: the change, and what the refusal says."""


@cache
def image(size: tuple[int, int] = (8, 8), format: str = "PNG") -> str:
    """An encoded image as base64."""
    return base64.b64encode(encode(solid(size), format)).decode()


def url(format: str = "PNG", size: tuple[int, int] = (8, 8)) -> str:
    """An image as a `data:` URL."""
    return f"data:image/{format.lower()};base64,{image(size, format)}"


def post(server: Server, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
    """Post a body: JSON, or bytes as they are.

    Returns:
        The status, and the response's body: its JSON, or its text if it is none.
    """
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, said = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, said = error.code, error.read()
    try:
        return status, json.loads(said)
    except ValueError:
        return status, said.decode()


@contextmanager
def changed(format: Format, good: dict[str, Any], change: Change) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server, and a request with one change."""
    body = copy.deepcopy(good)
    change(body)
    with Server(format, ["48.10"]) as server:
        yield server, body
