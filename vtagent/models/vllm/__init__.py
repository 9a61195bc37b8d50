"""The engine for models that a vLLM server has loaded."""

from vtagent.models.vllm.engine import VLLMEngine

__all__ = ["VLLMEngine"]
