"""Embeddings -> a faiss index, through autofaiss.

Role: a folder of .npy files -> image.index or text.index and what autofaiss notes about it; on one machine or on Spark.
"""

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.index.factory_key import MEMORY, opq_by_position, require_index_key
from open_clip_idplugin.retrieval.index.partitions import PYSPARK, SEQUENTIAL
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.weight_files import first_lines

_MOST_MEMORY = "4G"  # of the index


def build_faiss(folder: Path, embeddings: str, name: str, index_key: str | None, distributor: str = SEQUENTIAL) -> None:
    """Run autofaiss on <embeddings>_emb/*.npy -> <name>.index, with inner products.

    With pyspark inverted files are filled on Spark; the other types of index cannot be merged, and are built here. Raises
    IdClipError for a type that these embeddings do not fit.
    """
    from autofaiss import build_index as autofaiss_build

    source, target, infos = folder / f"{embeddings}_emb", folder / f"{name}.index", folder / f"{name}.json"
    if index_key is not None:
        require_index_key(index_key, *reversed(_shape(source)))
    print(f"Building {target.name} with autofaiss")
    with contextlib.ExitStack() as stack:
        distribution: dict[str, Any] = {}
        if distributor == PYSPARK and "IVF" in (index_key := index_key or _usual_key(source)):
            from open_clip_idplugin.retrieval.index.embed_on_spark import indexing_on_spark

            distribution = stack.enter_context(indexing_on_spark(folder))
        stack.enter_context(_quiet_autofaiss())
        stack.enter_context(opq_by_position())
        try:
            built, _ = autofaiss_build(
                str(source),
                str(target),
                str(infos),
                index_key=index_key,
                metric_type="ip",
                max_index_memory_usage=_MOST_MEMORY,
                current_memory_available=MEMORY,
                nb_cores=os.cpu_count(),
                verbose=logging.ERROR,
                **distribution,
            )
        except (RuntimeError, ValueError, ArithmeticError, LookupError, AssertionError) as error:
            raise _not_built(index_key, first_lines(error)) from error
    if built is None or not target.exists():
        raise _not_built(index_key, "it says no more")
    values = json.loads(infos.read_text())
    atomic_write(infos, json_text({**values, "index_path": target.name}, indent=1))  # it names the temporary folder


def _not_built(index_key: str | None, why: str) -> IdClipError:
    """A type that was given can be changed; what autofaiss has chosen cannot."""
    which = "index" if index_key is None else f"index of the type '{index_key}'"
    return IdClipError(f"autofaiss built no {which} ({why})" + ("" if index_key is None else ": try --index_key Flat"))


def _usual_key(embeddings: Path) -> str:
    """The type that autofaiss would choose on one machine: its Spark mode alone would make inverted files of everything."""
    from autofaiss.external.optimize import get_optimal_index_keys_v2

    keys: list[str] = get_optimal_index_keys_v2(*_shape(embeddings), _MOST_MEMORY)
    return keys[0]


def _shape(embeddings: Path) -> tuple[int, int]:
    """Rows of all files of a folder, and their length."""
    shapes = [np.load(path, mmap_mode="r").shape for path in embeddings.glob("*.npy")]
    return sum(rows for rows, _ in shapes), shapes[0][1]


@contextlib.contextmanager
def _quiet_autofaiss() -> Iterator[None]:
    """Keep autofaiss's progress bars to itself, and put back the process's logging, which it configures anew."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
