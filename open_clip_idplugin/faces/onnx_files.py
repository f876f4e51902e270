"""ONNX files from outside: a path -> the graph without its weights, and the files beside it that hold some of them.

External data is read by the runtimes from wherever the graph says, so that every engine asks here before it opens a file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from open_clip_idplugin.faces.errors import ModelUnreadable


def read_graph(path: Path) -> Any:
    """The file's `onnx.GraphProto`; weights in other files are not read.

    Raises ModelUnreadable for what is no ONNX, and for external data that is not a plain file in the folder of `path`.
    """
    return _read(path)[0]


def model_files(path: Path) -> list[Path]:
    """The graph's file and those beside it that hold its tensors, in order of their names; raises as `read_graph`."""
    return [path, *_read(path)[1]]


def _read(path: Path) -> tuple[Any, list[Path]]:
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
        places = {
            entry.value for tensor in _tensors(graph) for entry in tensor.external_data if entry.key == "location"
        }
    except Exception as error:  # protobuf's DecodeError, RecursionError and more: whatever a damaged file leads to
        raise ModelUnreadable(
            f"The model file {path} cannot be read as ONNX ({type(error).__name__}); fetch it again."
        ) from error
    beside = [path.parent / place for place in sorted(places)]
    for file in beside:
        if path.parent.resolve() not in file.resolve().parents or not file.is_file():
            raise ModelUnreadable(f"The model file {path} keeps tensors in {file}, which is no file beside it.")
    return graph, beside


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
