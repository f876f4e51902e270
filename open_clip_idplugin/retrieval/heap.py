"""The C library's heap of a process with many threads: no more parts than cores, and what was freed goes back.

Role: two settings of glibc, which keeps a heap for every thread up to eight times the cores, each with the buffers that its
largest request once needed. Elsewhere nothing happens.
"""

import ctypes
import os

_ARENA_MAX = -8  # glibc's M_ARENA_MAX
_library = ctypes.CDLL(None)


def limit_heaps() -> None:
    """Have at most one heap a core, and two on one core; to be called before the process has threads.

    The environment's MALLOC_ARENA_MAX goes first.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(_library, "mallopt"):
        _library.mallopt(_ARENA_MAX, max(2, count_cores()))


def return_freed_memory() -> None:
    """Give freed memory back to the system."""
    if hasattr(_library, "malloc_trim"):
        _library.malloc_trim(ctypes.c_size_t(0))


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
