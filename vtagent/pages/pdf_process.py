"""Starts the process that reads a PDF, asks it, and ends it when it takes too long.

PDFium is not thread-safe, and a malicious file may crash it or keep it busy. So each opened PDF has a process of its
own, with limits of time and memory. One that has ended is started again for the next request.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from vtagent.decoder_process import script_command
from vtagent.errors import ImageTooLarge, UnreadableImage
from vtagent.limits import DocumentLimits

__all__ = ["PdfProcess"]

_START = 2**30
"""Bytes of address space that Python and PDFium take before they read a file; threads' stacks are most of it."""

_PATIENCE = 5.0
"""Seconds of wall time for each second of processor time: the machine may be busy."""


class PdfProcess:
    """A process that has one PDF open. Threads take turns.

    Args:
        data: The file.
        limits: Limits of time and memory.

    Raises:
        ModuleNotFoundError: pypdfium2 is not installed.
        UnreadableImage: The file cannot be opened.
        ImageTooLarge: Opening it takes too long, or too much memory.
    """

    def __init__(self, data: bytes, limits: DocumentLimits) -> None:
        found = importlib.util.find_spec("pypdfium2")
        if found is None or found.origin is None:
            raise ModuleNotFoundError("No module named 'pypdfium2'", name="pypdfium2")
        self._data, self._limits = data, limits
        self._package = found.origin
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        with self._lock:
            self.opened = self._open()

    def ask(self, do: str, **request: Any) -> tuple[dict[str, Any], bytes]:
        """Ask for something; see `vtagent.pages.pdf_worker`.

        Args:
            do: What to do.
            request: Its arguments.

        Raises:
            UnreadableImage: The page is broken.
            ImageTooLarge: It takes too long, or too much memory.
        """
        with self._lock:
            if self._owner != os.getpid():  # after a fork, the pipes are the parent's
                self._process, self._owner = None, os.getpid()
            if self._process is not None and self._process.poll() is not None:
                self.close()
            if self._process is None:
                self._open()
            return self._exchange({"do": do, **request}, b"")

    def close(self) -> None:
        """End the process. It is started again if it is asked once more."""
        with self._lock:
            self._process = None
            if self._owner == os.getpid():
                self._finalize()

    def _open(self) -> dict[str, Any]:
        script = str(Path(__file__).with_name("pdf_worker.py"))
        memory = _START + self._limits.max_memory + 2 * len(self._data)
        self._process = subprocess.Popen(
            script_command(self._package, script, str(self._limits.max_seconds), str(memory)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # At the latest when nobody holds this any more, or at the end of the interpreter.
        self._finalize = weakref.finalize(self, _end, self._process, os.getpid())
        head, _ = self._exchange({"do": "open"}, self._data, fails_with_error=False)
        if head.get("locked"):
            self.close()
            raise UnreadableImage("the PDF is encrypted: save it without a password")
        if "error" in head:
            self.close()
            raise UnreadableImage(f"the PDF cannot be opened ({head['error']}): is it complete?")
        return head

    def _exchange(
        self, request: dict[str, Any], data: bytes, *, fails_with_error: bool = True
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and read its reply."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        seconds = self._limits.max_seconds
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(1 + _PATIENCE * seconds, end)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps({**request, "bytes": len(data)}).encode() + b"\n")
            process.stdin.write(data)
            process.stdin.flush()
            line = process.stdout.readline()
            head: dict[str, Any] = json.loads(line) if line else {}
            body = process.stdout.read(head.get("bytes", 0))
        except (BrokenPipeError, ConnectionResetError, json.JSONDecodeError):
            line, head, body = b"", {}, b""
        except BaseException:  # an interrupt: the reply that is still to come must not answer the next request
            self.close()
            raise
        finally:
            timer.cancel()
        if not line or len(body) < head["bytes"]:
            process.wait(1 + _PATIENCE * seconds)
            self.close()
            code = process.returncode
            if late.is_set() or code in (-27, -24):  # SIGPROF, SIGXCPU
                raise ImageTooLarge(f"the PDF takes more than {seconds:g} seconds: print it to a new file")
            raise UnreadableImage("the PDF crashes its reader: print it to a new file")
        if head.get("error") == "MemoryError":
            self.close()
            raise ImageTooLarge(f"the PDF takes more than {self._limits.max_memory} bytes of memory")
        if "error" in head and fails_with_error:
            raise UnreadableImage(f"the page cannot be read ({head['error']}): is the PDF complete?")
        return head, body


def _end(process: subprocess.Popen[bytes], owner: int) -> int | None:
    """End a process that this one has started, and return its exit code; one that has ended by itself keeps its own."""
    if owner != os.getpid():
        return None
    if process.poll() is None:
        process.kill()  # it writes nothing, so nothing is lost
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what could not be written when it ended
                pipe.close()
    return code
