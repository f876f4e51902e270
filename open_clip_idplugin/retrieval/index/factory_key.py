"""faiss index factory strings: a type such as "IVF1024,Flat", a dimension and a number of vectors -> nothing, or a refusal.

Role: says before pictures are embedded what autofaiss or faiss would refuse behind them. A type is parsed by autofaiss itself;
what faiss's k-means, products and graphs then need is read from the empty index that it makes.
"""

import contextlib
import re
import types
from collections.abc import Iterator
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.hosts.patches import PatchRow

# What autofaiss tells apart. It looks for these inside of longer types too, and then builds something else.
_TYPES = re.compile(
    r"Flat|HNSW\d+|IVF\d+,Flat|OPQ\d+_\d+,IVF\d+(_HNSW\d+)?,PQ\d+(x\d+)?|Pad\d+,IVF\d+_HNSW\d+,PQ\d+(x\d+)?"
)
MEMORY = "16G"  # that autofaiss may take to build an index
_MOST = 1 << 20  # clusters, links or bits: beyond it faiss takes gigabytes for the empty index
_LEAST_OPQ = 256  # it trains a product quantizer of 8 bits
_LEAST_LINKS = 2  # faiss ends the whole process where an HNSW graph has fewer


def require_index_key(key: str, dimension: int, count: int) -> None:
    """Raise IdClipError where no index of the type `key` can hold `count` vectors of `dimension` numbers."""
    why = why_unfit(key, dimension, count)
    if why is not None:
        raise IdClipError(f"--index_key '{key}' does not fit {count} vectors of {dimension} numbers: {why}; try Flat")


def why_unfit(key: str, dimension: int, count: int) -> str | None:
    """The reason why an index of this type cannot be built; None where it can."""
    import faiss
    from autofaiss.external.optimize import check_if_index_needs_training, get_optimal_train_size
    from autofaiss.indices.index_factory import index_factory

    if not _TYPES.fullmatch(key):
        return "autofaiss builds Flat, HNSW, IVF...,Flat, OPQ...,IVF...,PQ... and Pad...,IVF..._HNSW...,PQ... alone"
    numbers = [int(number) for number in re.findall(r"\d+", key)]
    links = [int(number) for number in re.findall(r"HNSW(\d+)", key)]
    if any(not 0 < number <= _MOST for number in numbers):
        return f"its numbers must be 1 to {_MOST}"
    if any(number < _LEAST_LINKS for number in links):
        return f"a graph (HNSW) needs at least {_LEAST_LINKS} links"
    try:
        with opq_by_position():
            index = index_factory(dimension, key, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, AssertionError) as error:
        return f"faiss says: {str(error).rpartition(': ')[2]}"
    trained = get_optimal_train_size(count, key, MEMORY, dimension) if check_if_index_needs_training(key) else count
    return next(_needs(index, count, trained), None)


@contextlib.contextmanager
def opq_by_position() -> Iterator[None]:
    """Within it autofaiss can make an OPQ matrix with the installed faiss."""
    host_patches.apply((OPQ,))
    try:
        yield
    finally:
        host_patches.restore((OPQ,))


def _with_opq_by_position(faiss: Any) -> Any:
    def create(d: int, M: int, d2: int) -> Any:
        return faiss.OPQMatrix(d, M, d2)

    return types.SimpleNamespace(**{**vars(faiss), "OPQMatrix": create})


OPQ = PatchRow(
    targets=("autofaiss.indices.index_factory:faiss",),
    replacement=_with_opq_by_position,
    reason="autofaiss names the arguments of faiss.OPQMatrix, which newer faiss takes by position only",
    hosts="autofaiss 2.18, faiss 1.8 to 1.15",
)


def _needs(index: Any, count: int, trained: int) -> Iterator[str]:
    """What the empty index lacks to take `count` vectors, after autofaiss has trained it with `trained` of them."""
    import faiss

    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain  # a vector of C++
        for place in range(chain.size()):
            yield from _needs_of_transform(faiss.downcast_VectorTransform(chain.at(place)), trained)
        yield from _needs(index.index, count, trained)
    if isinstance(index, faiss.IndexIVF) and index.nlist > count:
        yield f"{index.nlist} clusters need at least as many vectors"
    quantizer = getattr(index, "pq", None)
    if quantizer is not None and quantizer.ksub > trained:
        yield f"a product quantizer of {quantizer.nbits} bits needs {quantizer.ksub} vectors, and is trained with {trained}"


def _needs_of_transform(transform: Any, trained: int) -> Iterator[str]:
    import faiss

    if not isinstance(transform, faiss.OPQMatrix):
        return
    if transform.d_out % transform.M:
        yield f"OPQ splits {transform.d_out} numbers into {transform.M} parts of a length"
    if trained < _LEAST_OPQ:
        yield f"OPQ needs {_LEAST_OPQ} vectors, and is trained with {trained}"
