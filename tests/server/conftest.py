"""A real LangGraph server for the contract tests. `make test-server` makes its environment: VTAGENT_SERVER."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
_SECONDS = 300
"""For a start on a busy machine; a few on an idle one."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    pid: int
    images: Path
    log: Path

    def resident(self) -> int:
        """Bytes of memory that the server's process holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")


def documented() -> list[str]:
    """The options of the command that docs/serve.md gives for many runs at once."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    [options] = re.findall(r"`langgraph dev (--[^`]+)`", text)
    return shlex.split(options)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The documented `langgraph dev`, the repository's own langgraph.json, no network, the images elsewhere."""
    folder = tmp_path_factory.mktemp("server")
    declared = json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))
    declared["dependencies"] = [str(ROOT)]
    declared["graphs"] = {name: str(ROOT / path) for name, path in declared["graphs"].items()}
    (folder / "langgraph.json").write_text(json.dumps(declared), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    settings = {"VTAGENT_IMAGES": str(folder / "images"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1,localhost"}
    langgraph = str(Path(os.environ["VTAGENT_SERVER"]).absolute())
    command = [langgraph, "dev", *documented(), "--no-browser", "--no-reload", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | nowhere | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process, folder / "log")
        yield Server(url, process.pid, folder / "images", folder / "log")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/ok", timeout=5).is_success:
                return
        time.sleep(0.5)
    raise AssertionError(f"no answer within {_SECONDS} s:\n{log.read_text(encoding='utf-8')[-2000:]}")
