"""Chat models and the engines behind them. Importing this loads no torch; `ChatVLM.from_pretrained` does."""

from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Engine, Generation, Request, Sampling

__all__ = ["ChatVLM", "Engine", "Generation", "Request", "Sampling"]
