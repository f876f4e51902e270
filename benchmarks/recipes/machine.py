"""What a benchmark ran on: versions, cores, processor. For the head of the report."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("open-clip-idplugin", "open_clip_torch", "torch", "webdataset", "numpy")


def versions() -> str:
    """Python and the packages that numbers depend on, such as "Python 3.11.2, torch 2.11.0"."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def machine() -> str:
    """Cores, processor and system, such as "2 cores, AMD EPYC Processor, Linux x86_64"."""
    cores = os.cpu_count() or 1
    return f"{cores} core{'s' if cores > 1 else ''}, {_processor()}, {platform.system()} {platform.machine()}"


def _processor() -> str:
    """The name that Linux gives, elsewhere Python's."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model") and value.strip():
                return value.strip()
    return platform.processor() or "unknown processor"
