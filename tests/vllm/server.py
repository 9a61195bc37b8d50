"""A real `vllm serve` on this machine's CPU, started with the command line that docs/serve.md gives."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
_SECONDS = 900
"""For a start on a busy machine; about 40 on an idle one."""

# What a CPU and small models need beside the documented options.
_ON_A_CPU = shlex.split(
    "--dtype float32 --enforce-eager --block-size 32 "
    "--max-model-len 4096 --max-num-seqs 8 --max-num-batched-tokens 4096"
)
_SETTINGS = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "HF_HUB_OFFLINE": "1",
}


def documented(model: str) -> tuple[dict[str, str], list[str]]:
    """The settings and options of the documented command that serves this model."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = re.findall(rf"^ *(?:\$ )?((?:\w+=\S+ )*vllm serve {re.escape(model)} .*)$", text, re.MULTILINE)
    words = shlex.split(command)
    place = words.index("vllm")
    settings = dict(word.split("=", 1) for word in words[:place])
    return settings, words[place + 3 :]


class VLLMServer:
    """One server on a port of its own, which it keeps when it is killed and started anew.

    Args:
        folder: The checkpoint.
        like: The model in whose documented way it is served.
        log: Where the server's output goes; its folder is the server's own, for files that its options name.
    """

    def __init__(self, folder: Path, like: str, log: Path) -> None:
        self.folder = folder
        self.log = log
        self._settings, self._options = documented(like)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def launch(self) -> None:
        """Start it, without waiting until it is ready."""
        vllm = Path(os.environ["VTAGENT_VLLM"]).absolute()
        command = [str(vllm), "serve", str(self.folder), "--host", "127.0.0.1", "--port", str(self._port)]
        settings = os.environ | {"PATH": f"{vllm.parent}:{os.environ['PATH']}"} | _SETTINGS | self._settings
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options, *_ON_A_CPU],
                cwd=self.log.parent,
                env=settings,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> VLLMServer:
        """Wait until it answers."""
        assert self._process is not None
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health", timeout=10).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
        self.kill()
        raise RuntimeError(f"vLLM did not start:\n{tail}")

    def kill(self) -> None:
        """End it and all its workers at once, as a crash would."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
