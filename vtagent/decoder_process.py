"""Decodes one image in a process that can be ended: for the few files whose cost nothing else bounds.

The process runs this file as a script, so nothing of vtagent is imported there, and a start takes about 0.1 seconds.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL
from PIL import Image

__all__ = ["decode_alone", "script_command"]

_START = 256 * 2**20
"""Bytes of address space that Python and Pillow take before they decode."""

_PATIENCE = 10.0
"""Seconds of wall time for each second of processor time: the machine may be busy."""


_RUN = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"
"""Runs a script that finds packages where this process has found one, and nothing else that was not installed."""


class TookTooMuch(Exception):
    """The decoder process has used up its time or memory."""


def script_command(package: str, script: str, *arguments: str) -> list[str]:
    """The command that runs a script in a process of its own, isolated from this one's folder and environment.

    Args:
        package: The file of a package's `__init__`: the script finds that package, and those beside it.
        script: The script's file. Nothing of vtagent is imported by it.
        *arguments: Its arguments, from `sys.argv[3]` on.
    """
    home = str(Path(package).parent.parent)
    return [sys.executable, "-I", "-c", _RUN, home, str(Path(script).resolve()), *arguments]


def decode_alone(data: bytes, format: str, *, seconds: float, memory: int) -> Image.Image:
    """Decodes a file in a process of its own.

    Args:
        data: The encoded file.
        format: Pillow's name of its format.
        seconds: Processor time that it may take, in seconds.
        memory: Memory that it may take, in bytes.

    Returns:
        The pixels in the mode that Pillow gives them, with palette and transparency.

    Raises:
        TookTooMuch: It took more time or memory.
        OSError: It cannot be decoded; the text says why.
    """
    command = script_command(PIL.__file__, __file__, format, str(seconds), str(memory + _START))
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=1 + _PATIENCE * seconds, check=False)
    except subprocess.TimeoutExpired:
        raise TookTooMuch(f"more than {1 + _PATIENCE * seconds:g} seconds") from None
    if done.returncode in (-getattr(signal, "SIGPROF", 0), -getattr(signal, "SIGXCPU", 0)) and done.returncode:
        raise TookTooMuch(f"more than {seconds:g} seconds")
    head, _, pixels = done.stdout.partition(b"\n")
    found: dict[str, Any] = json.loads(head) if head.startswith(b"{") else {"error": "the decoder process ended"}
    if found.get("error") == "MemoryError":
        raise TookTooMuch(f"more than {memory} bytes")
    if "error" in found:
        raise OSError(found["error"])
    image = Image.frombytes(found["mode"], tuple(found["size"]), pixels)
    if found["palette"] is not None:
        image.putpalette(bytes.fromhex(found["palette"]))
    return image


def _main(format: str, seconds: str, memory: str) -> None:
    """Reads a file from stdin; writes a line of JSON and the pixels to stdout."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, float(seconds))  # its signal ends the process
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    except (ImportError, ValueError, OSError):  # Windows has no limits, macOS not this one
        pass
    head: dict[str, Any]
    pixels = b""
    try:
        image = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=(format,))
        image.load()
        palette = image.getpalette("RGB") if image.mode in ("P", "PA") else None
        pixels = image.tobytes()
        head = {"mode": image.mode, "size": image.size, "palette": bytes(palette).hex() if palette else None}
    except MemoryError:
        head = {"error": "MemoryError"}
    except Exception as error:
        head = {"error": " ".join(str(error).split()) or type(error).__name__}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + pixels)


if __name__ == "__main__":
    _main(*sys.argv[3:])
