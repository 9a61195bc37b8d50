"""Which weights a vLLM server has: requests and reloads take turns, and no reply mixes the tokens of two policies.

The server names the version of the weights behind each token that it sampled. While it loads, it bears a name that no
reply may come from, and keeps it if loading fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from vtagent.errors import ModelError
from vtagent.models.vllm.http import Server


class Weights:
    """The weights behind one engine. To be used from one event loop.

    Attributes:
        expected: The version that every reply must come from; the first reply's, until `load` or `follow` sets one.
        pinned: Whether `load` or `follow` has set it.
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
        """A request's turn: it waits for a change under way, and a change waits for it."""
        async with self._free:
            await self._free.wait_for(lambda: not self._changing)
            self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._tell()

    def check(self, versions: Sequence[str]) -> None:
        """Compare the versions behind a reply, in the order of its tokens, with the expected one.

        Raises:
            ModelError: other weights, or weights that changed in the middle.
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
        """Have the server load the weights in a folder and forget all that it computed with the old ones.

        Raises:
            ModelError: a step failed; or the weights are loaded, but the server could not be made to go on.
        """
        async with self._change():
            self.expected = version
            try:
                await self._load(path, version)
            except BaseException as error:  # a pause whose answer was lost may have taken effect, too
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
        ask = self._server.order
        await ask("/pause?mode=wait")
        await ask("/update_weight_version", {"new_version": f"loading {version}"})
        await ask("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        if (await ask("/reset_prefix_cache")) != {"success": True}:
            raise ModelError("the server could not empty its prefix cache")
        await ask("/reset_mm_cache")
        await ask("/reset_encoder_cache")
        await ask("/update_weight_version", {"new_version": version})

    async def _resume(self) -> None:
        """Asked as often as a request is: going on twice does no harm."""
        await self._server.patiently(lambda: self._server.post("/resume"))

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
            await self._tell()

    async def _tell(self) -> None:
        async with self._free:
            self._free.notify_all()
