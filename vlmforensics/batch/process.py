"""How a process that is ours alone (a command, a served page, a Ray actor) waits, and how it keeps memory.

Settings are never changed on behalf of a program that uses the library.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

MIB = 1 << 20
# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def prepare_process() -> None:
    """Quiet the libraries, let OpenMP's threads sleep, bound oneDNN's cache, keep freed memory.

    Call it before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see assistant.parts.let_threads_sleep
    # oneDNN keeps its kernels for 1,024 shapes; each picture of a new size brings dozens, scattered over the heap.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Make the C library keep up to 256 MiB of freed memory instead of returning it to the system at once.

    A network frees and asks for the same megabytes at every layer, a narration for its keys and values at every
    token. glibc's arenas of threads hand them back each time, and fetching them again, page by page, was half
    of the time of a batch with explanations.

    Returns:
        True where the C library took the settings (glibc); elsewhere nothing is done.
    """
    mallopt = _from_glibc("mallopt")
    wanted = ((_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, 256 * MIB), (_M_MMAP_THRESHOLD, 32 * MIB))
    return mallopt is not None and all([mallopt(name, value) == 1 for name, value in wanted])


def return_freed_memory() -> bool:
    """Give freed pages of the whole heap back to the system, those between blocks in use included.

    For a process that runs for days. Small blocks that live long (oneDNN's kernels above all) end up between the
    large ones of a network, so the heap's end is seldom free and glibc keeps what is below it: a served page that
    used 0.3 GiB of heap throughout held twice as much in gaps after ten minutes, and more later.

    Returns:
        True where something was given back.
    """
    trim = _from_glibc("malloc_trim")
    return trim is not None and trim(0) == 1


def _from_glibc(name: str) -> Any:
    """A function of the C library, or None where the C library is another one."""
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
