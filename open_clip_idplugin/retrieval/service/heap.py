"""Process memory: glibc's heaps, freed memory and Python's garbage collector -> less resident memory, a shorter start.

glibc keeps a heap for every thread up to eight times the cores, each with the buffers that its largest request once needed. What
each setting brings to `idclip serve --mmap` (`benchmarks/system_calls.py`, ViT-B-32): without a limit of heaps 1.12 times the
resident memory after many questions at once, with freed memory kept 1.36 times at the start and 1.11 times after them, with
collections 1.14 times the processor's time of the start. Where the C library is another one, nothing happens.
"""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator

_ARENA_MAX = -8  # glibc's M_ARENA_MAX
_library = ctypes.CDLL(None)


def limit_heaps() -> None:
    """Have at most one heap a core, and two on one core; to be called before the process has threads.

    The environment's MALLOC_ARENA_MAX goes first.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(_library, "mallopt"):
        _library.mallopt(_ARENA_MAX, max(2, count_cores()))


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """While a process starts, keep Python from looking for garbage among what it imports, and afterwards too.

    A million objects of modules stay as long as the process does; each look at all of them takes some 0.1 s, of a request too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def return_freed_memory() -> None:
    """Give freed memory back to the system."""
    if hasattr(_library, "malloc_trim"):
        _library.malloc_trim(ctypes.c_size_t(0))


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
