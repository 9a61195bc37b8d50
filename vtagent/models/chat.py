"""ChatVLM: a LangChain chat model over an engine whose prompts never re-tokenise what the model itself has said."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

if TYPE_CHECKING:
    from vtagent.models.engine import EngineImage


class ChatVLM(BaseChatModel):
    """A vision-language chat model that reads `vtimg://` references itself.

    Signature first; the body follows. See the module's tests for what it promises.
    """

    engine: Any
    store: Any
    vision: Any
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    seed: int | None = None

    resolves_images: bool = True

    @classmethod
    def from_pretrained(
        cls,
        path: str | PathLike[str],
        *,
        store: Any = None,
        device: str | None = None,
        dtype: Any = None,
        **defaults: Any,
    ) -> ChatVLM:
        """Load a Qwen3-VL or Qwen2.5-VL checkpoint: a folder, a hub id, or a bundled policy's name ("base", "zoom")."""
        raise NotImplementedError

    def prompt_ids(self, messages: list[BaseMessage], **options: Any) -> list[int]:
        """The prompt of the next call, one placeholder per image (collapsed)."""
        raise NotImplementedError

    def expand(self, ids: list[int], images: list[EngineImage]) -> list[int]:
        """Collapsed ids with each placeholder repeated once per visual token of its image."""
        raise NotImplementedError

    @property
    def _llm_type(self) -> str:
        return "vtagent"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError
