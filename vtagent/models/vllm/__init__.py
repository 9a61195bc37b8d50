"""An engine over a vLLM server: `VLLMEngine`."""

from vtagent.models.vllm.engine import VLLMEngine

__all__ = ["VLLMEngine"]
