"""Loaded when Python starts in the environment that install.sh makes: torchvision beside a CPU build of torch.

The package index has torchvision built for CUDA. Its compiled operators cannot load without it, but it still registers
kernels for two of them, which fails for operators that nobody has declared. They are declared here, just before
torchvision is imported. Its transforms, which is all that transformers uses of it, need no compiled operator.
"""

from __future__ import annotations

import importlib.abc
import sys
from importlib.metadata import version
from typing import Any

_OPERATORS = ("nms", "qnms")
_kept: list[Any] = []


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        if torch.version.cuda is None and not version("torchvision").endswith("+cpu"):
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in _OPERATORS:
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(library)  # operators live as long as their library


sys.meta_path.insert(0, _BeforeTorchvision())
