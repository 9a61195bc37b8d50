"""Real servers for the contract tests. `make test-vllm` makes their environment and names it in VTAGENT_VLLM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.server import VLLMServer
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.families import POLICIES
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.vllm.engine import VLLMEngine


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled policy `zoom`, in a folder that stays as it is while the tests run."""
    return Path(shutil.copytree(POLICIES / "zoom", tmp_path_factory.mktemp("policy") / "zoom"))


@pytest.fixture(scope="session")
def server(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """A server of that policy. A test that kills it starts it again."""
    server = VLLMServer(policy, "vtagent/policies/zoom", tmp_path_factory.mktemp("vllm") / "server.log")
    server.launch()
    try:
        yield server.ready()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def local(policy: Path) -> Iterator[ChatVLM]:
    """The same policy on transformers, in this process."""
    model = ChatVLM.from_pretrained(policy, image_store=MemoryImageStore(), max_tokens=96)
    yield model
    model.engine.close()


@pytest.fixture(scope="session")
def yardstick(local: ChatVLM) -> TransformersEngine:
    """Its engine."""
    assert isinstance(local.engine, TransformersEngine)
    return local.engine


@pytest.fixture
def engine(server: VLLMServer, local: ChatVLM) -> Iterator[VLLMEngine]:
    """An engine whose model is in the server."""
    with VLLMEngine(server.url, local.processor, timeout=600.0) as engine:
        yield engine


@pytest.fixture
def remote(engine: VLLMEngine, local: ChatVLM) -> ChatVLM:
    """A chat model over it, with the images of `local`."""
    return ChatVLM(engine=engine, processor=local.processor, image_store=local.image_store, max_tokens=96)
