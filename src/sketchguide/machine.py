"""The machine: its processor and its accelerators, in words."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def hardware(device: str) -> str:
    """The machine's part that a device of this type ("cpu", "cuda", "mps") stands for, in a few words."""
    if device == "cpu":
        return f"{processor()}, {os.cpu_count()} cores"
    found = [name for name in accelerators() if name.startswith(device)]
    return found[0] if found else device


def accelerators() -> list[str]:
    """One line for each GPU that torch can use."""
    import torch

    found: list[str] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return found + (["mps"] if torch.mps.is_available() else [])


def processor() -> str:
    """The name of the CPU where the system tells it, else its architecture."""
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()
