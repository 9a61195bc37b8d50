"""Whether a checkpoint's name can lead anywhere, found out in a second and before anything large is imported.

The libraries that download a checkpoint try an unreachable hub for most of a minute before they say so.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

from vtagent.errors import ModelError

__all__ = ["check_available"]

_HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
_PLACES = "give a checkpoint's folder, a hub id such as Qwen/Qwen3-VL-2B-Instruct, or a bundled policy"
_WAIT = 3.0
"""Seconds in which the hub must take a connection. Without a network, the name's look-up fails at once."""


def check_available(name: str) -> None:
    """Check that a checkpoint is here or may be on the hub.

    If the hub cannot be reached and the checkpoint was downloaded before, downloads are switched off for this process,
    so that the files are used as they are and nothing is retried.

    Args:
        name: A folder, a hub id, or the name of a bundled policy.

    Raises:
        ModelError: No folder and no hub id; or a hub id that was never downloaded, and the hub cannot be reached.
    """
    if Path(name).exists():
        return
    if not _HUB_ID.fullmatch(name):
        from vtagent.models.families import POLICIES, checkpoint_path

        if checkpoint_path(name) != name:
            return
        bundled = ", ".join(sorted(config.parent.name for config in POLICIES.glob("*/config.json")))
        raise ModelError(f"no model at {name!r}: {_PLACES} ({bundled})")
    if _is_offline():
        reason = "downloads are switched off (HF_HUB_OFFLINE)"
    elif not (host := _unreachable_host()):
        return
    else:
        reason = f"{host} cannot be reached"
        if _downloaded(name):
            _switch_downloads_off()
    if not _downloaded(name):
        raise ModelError(f"no model at {name!r}: it is not on this machine, and {reason}")


def _is_offline() -> bool:
    return any(
        os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _switch_downloads_off() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def _downloaded(name: str) -> bool:
    """Whether the hub's cache holds files of a checkpoint. huggingface_hub itself takes most of a second to import."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    return any((cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/*"))


def _unreachable_host() -> str | None:
    """The host that a download needs first, the hub or a proxy, if it takes no connection in time; else None."""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    proxies = getproxies()
    url = urlsplit(proxies.get(urlsplit(hub).scheme) or proxies.get("all") or hub)
    try:
        host, port = url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme, 1080)
    except ValueError:  # no port; the download says what is wrong
        return None
    if host is None:
        return None
    reached = []

    def connect() -> None:
        try:
            with socket.create_connection((host, port), timeout=_WAIT):
                reached.append(True)
        except OSError:
            pass

    attempt = Thread(target=connect, daemon=True)  # a look-up of a name cannot be given a time limit
    attempt.start()
    attempt.join(_WAIT)
    return None if reached else host
