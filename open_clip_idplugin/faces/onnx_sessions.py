"""onnxruntime sessions: engine options -> providers and session options, without a silent fall back to the CPU."""

import os
from pathlib import Path
from typing import Any

from open_clip_idplugin.faces.errors import ModelUnreadable, ProviderUnavailable
from open_clip_idplugin.faces.onnx_files import read_graph
from open_clip_idplugin.faces.options import EngineOptions

GPU = "CUDAExecutionProvider"


def session_settings(options: EngineOptions) -> dict[str, Any]:
    """Keyword arguments `providers` and `sess_options` of a session, and of insightface's `get_model`.

    Raises ProviderUnavailable: onnxruntime itself would replace a provider that is not there without a word.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
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
