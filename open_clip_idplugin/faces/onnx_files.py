"""ONNX files from outside: a path -> the graph without its weights, the files beside it that hold some, and a session.

External data is read by the runtimes from wherever the graph says, so that every engine asks here before it opens a file; and
no session falls back to the CPU silently.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from open_clip_idplugin.faces.engine import EngineOptions
from open_clip_idplugin.faces.errors import ModelUnreadable, ProviderUnavailable


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


GPU = "CUDAExecutionProvider"


def available_providers() -> list[str]:
    """onnxruntime's execution providers on this machine, best first."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def session_settings(options: EngineOptions) -> dict[str, Any]:
    """Keyword arguments `providers` and `sess_options` of a session, and of insightface's `get_model`.

    Raises ProviderUnavailable: onnxruntime itself would replace a provider that is not there without a word.
    """
    import onnxruntime

    available = available_providers()
    chosen = list(options.providers or [p for p in (GPU, "CPUExecutionProvider") if p in available])
    unknown = [provider for provider in chosen if provider not in available]
    if unknown:
        raise ProviderUnavailable(
            f"onnxruntime has no provider {', '.join(unknown)} here; available: {', '.join(available)}."
        )
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3  # errors only: models of old exporters cause pages of warnings
    if options.threads is not None:
        session_options.intra_op_num_threads = options.threads
        session_options.inter_op_num_threads = 1
    return {"providers": chosen, "sess_options": session_options}


def open_session(path: Path, options: EngineOptions) -> Any:
    """A session over a model file; raises ModelUnreadable for one that is damaged, and as `session_settings`."""
    import onnxruntime

    settings = session_settings(options)
    read_graph(path)
    try:
        return onnxruntime.InferenceSession(str(path), **settings)
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelUnreadable(
            f"The model file {path} cannot be loaded ({type(error).__name__}); fetch it again."
        ) from error


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
