"""The weights of a vLLM server: files that a running server can reload, and turns for requests and reloads.

The server names the version of the weights behind each sampled token, so no reply mixes the tokens of two policies.
While it loads, the version is one that no reply is accepted from; it stays if loading fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from vtagent.errors import ModelError
from vtagent.models.vllm.http import Server

_HEAD = "lm_head.weight"
_HEAD_FILE = "lm_head.safetensors"
_INDEX = "model.safetensors.index.json"


class Weights:
    """The weights behind one engine. Not thread-safe: use it from one event loop.

    Args:
        server: The server that has loaded them.

    Attributes:
        expected: The version that every reply must come from; the first reply's, until `load` or `follow` sets one.
        pinned: Whether `load` or `follow` has set `expected`.
    """

    def __init__(self, server: Server) -> None:
        self.expected: str | None = None
        self.pinned = False
        self._server = server
        self._users = 0
        self._free = asyncio.Condition()
        self._changing = False

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Hold the weights for one request: it waits for a change in progress, and the next change waits for it."""
        async with self._free:
            await self._free.wait_for(lambda: not self._changing)
            self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._notify()

    def check(self, versions: Sequence[str]) -> None:
        """Compare the versions behind a reply with the expected one.

        Args:
            versions: In the order of the reply's tokens; empty if the server has named none.

        Raises:
            ModelError: The reply comes from other weights, or the weights changed while it was sampled.
        """
        if not versions and not self.pinned:
            return
        if self.expected is None:
            self.expected = versions[0]
        if set(versions) != {self.expected}:
            found = " and ".join(repr(version) for version in dict.fromkeys(versions)) or "no version"
            raise ModelError(
                f"the reply comes from weights {found}, not from {self.expected!r}; reload those, "
                "or follow what is served"
            )

    async def follow(self, version: str) -> None:
        """Expect another version from the next request on."""
        async with self._change():
            self.expected = version

    async def load(self, path: str, version: str) -> None:
        """Load a checkpoint into the server and empty its caches.

        Args:
            path: The checkpoint's folder, as the server sees it.
            version: The name of the new weights.

        Raises:
            ModelError: A step failed; or the weights are loaded, but the server did not resume.
        """
        async with self._change():
            self.expected = version
            try:
                await self._load(path, version)
            except BaseException as error:  # a pause whose answer was lost may have taken effect: resume all the same
                with suppress(ModelError):
                    await self._resume()
                if isinstance(error, ModelError):
                    raise ModelError(f"the weights in {path} were not loaded: {error}") from error
                raise
            try:
                await self._resume()
            except ModelError as error:
                raise ModelError(f"the weights in {path} are loaded, but the server still pauses: {error}") from error

    async def _load(self, path: str, version: str) -> None:
        command = self._server.command
        await command("/pause?mode=wait")
        await command("/update_weight_version", {"new_version": f"loading {version}"})
        await command("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        if (await command("/reset_prefix_cache")) != {"success": True}:
            raise ModelError("the server could not empty its prefix cache")
        await command("/reset_mm_cache")
        await command("/reset_encoder_cache")
        await command("/update_weight_version", {"new_version": version})

    async def _resume(self) -> None:
        """Resume with retries, since resuming twice does no harm."""
        await self._server.with_retries(lambda: self._server.post("/resume"))

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        async with self._free:
            await self._free.wait_for(lambda: not self._changing)
            self._changing = True
        try:
            async with self._free:
                await self._free.wait_for(lambda: self._users == 0)
            self.pinned = True
            yield
        finally:
            self._changing = False
            await self._notify()

    async def _notify(self) -> None:
        async with self._free:
            self._free.notify_all()


def save_for_server(model: Any, folder: str | PathLike[str], *, state_dict: Mapping[str, Any] | None = None) -> Path:
    """Save a transformers model so that `VLLMEngine.reload` loads all of it, a tied output head included.

    A checkpoint holds tied weights once. vLLM on a CPU repacks the head when it is loaded, so a reload that does not
    name the head silently keeps the old one. The head therefore gets a file of its own, which transformers ignores.

    Args:
        model: The model. Its weights keep their dtypes.
        folder: Made if it does not exist.
        state_dict: The weights to write in place of the model's own.

    Returns:
        The folder.
    """
    folder = Path(folder)
    model.save_pretrained(folder, state_dict=state_dict)
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head is embeddings:
        from safetensors.torch import save_file  # here, since a client of a server has no torch

        weights = model.state_dict() if state_dict is None else state_dict
        [tied] = {name for name in weights if name.endswith(".embed_tokens.weight")}
        save_file({_HEAD: weights[tied].detach().cpu().clone()}, folder / _HEAD_FILE, metadata={"format": "pt"})
        _add_head_to_index(folder / _INDEX)
    return folder


def _add_head_to_index(index: Path) -> None:
    """Name the head in the index of a sharded checkpoint: vLLM reads only the files that the index names."""
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"][_HEAD] = _HEAD_FILE
        index.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
