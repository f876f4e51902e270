"""ONNX files from outside: a path -> the graph without its weights, refused where the weights lie outside its folder.

External data (weights in a file of their own) is read by the runtime from wherever the graph says.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from open_clip_idplugin.faces.errors import ModelUnreadable


def read_graph(path: Path) -> Any:
    """The file's `onnx.GraphProto`; weights in other files are not read.

    Raises ModelUnreadable for what is no ONNX, and for external data that is not a plain file in the folder of `path`.
    """
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
        places = {entry.value for tensor in _tensors(graph) for entry in tensor.external_data if entry.key == "location"}
    except Exception as error:  # protobuf's DecodeError, RecursionError and more: whatever a damaged file leads to
        raise ModelUnreadable(
            f"The model file {path} cannot be read as ONNX ({type(error).__name__}); fetch it again."
        ) from error
    folder = path.parent.resolve()
    for place in sorted(places):
        target = folder / place
        if target.is_symlink() or not target.resolve().is_relative_to(folder) or not target.is_file():
            raise ModelUnreadable(
                f"The model file {path} wants weights from {place!r}, which is no file in its own folder; it is not opened."
            )
    return graph


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph, those of its nodes' attributes and inner graphs too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
