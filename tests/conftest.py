"""Tests fetch nothing: a model that is not on this machine is unknown at once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
