"""How much memory an engine may take for KV and image features, and how running out of it is recognised."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_SHARE = {"cpu": 0.5, "mps": 0.5}
"""Share of the free memory of a device that an engine takes; the rest is for activations and other programs."""

_GPU_SHARE = 0.8

_ASSUMED = 2**32
"""Bytes assumed where the system does not tell what is free."""

_CGROUP = Path("/sys/fs/cgroup")


def default_bytes(devices: set[torch.device]) -> int:
    """Memory that an engine takes if it is not told.

    Args:
        devices: Of the model's layers. Layers are spread evenly, so the device with the least memory counts.
    """
    return len(devices) * min(int(_SHARE.get(device.type, _GPU_SHARE) * free_bytes(device)) for device in devices)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, as this process may use it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return min(_system_bytes(), _container_bytes())


def _system_bytes() -> int:
    try:
        import psutil  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return _ASSUMED
    return int(psutil.virtual_memory().available)


def _container_bytes() -> int:
    """What a container's limit leaves (cgroup v2); no limit if there is none."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        kept = (_CGROUP / "memory.stat").read_text().split()
        files = int(kept[kept.index("inactive_file") + 1])  # cached files, which give way
        return int(limit) - int(used) + files
    except (OSError, ValueError):  # no such files, or "max"
        return sys.maxsize


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated: on a GPU, by torch on a CPU, or by Python."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def return_unused(devices: set[torch.device]) -> None:
    """Give memory that torch keeps for later back to the devices."""
    if any(device.type == "cuda" for device in devices):
        torch.cuda.empty_cache()
    if any(device.type == "mps" for device in devices):
        torch.mps.empty_cache()


def in_words(size: int) -> str:
    """A size for people, such as "1.5 GiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
