"""INSwapper: a model file of the user's -> insightface's swapper behind the swapper interface.

Role: two faces -> the target's picture with the face that the network makes from the source's embedding. The embedding
must come from the recogniser the model was trained with (for inswapper_128: the one of buffalo_l).
"""

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.onnx_files import read_graph
from webdataset_tools import marking
from webdataset_tools.faceswap.geometry import SwapFailed
from webdataset_tools.faceswap.swapper import FaceInPicture

_LICENCE = "insightface's swapper models are for non-commercial research only"


class InswapperSwapper:
    """Runs a loaded INSwapper; pictures are BGR there and RGB here."""

    digital_source_type = marking.COMPOSITE_TRAINED

    def __init__(self, model: Any, latent_size: int) -> None:
        self._model = model
        self._latent_size = latent_size

    def swap(self, target: FaceInPicture, source: FaceInPicture) -> np.ndarray:
        """Return the target's picture [H, W, 3] uint8 with the source's face; raises SwapFailed (see `Swapper`)."""
        embedding = source.embedding
        if embedding.shape != (self._latent_size,):
            raise SwapFailed(f"the swapper takes embeddings of {self._latent_size} numbers, not {embedding.size}")
        latent = embedding @ self._model.emap
        if not np.isfinite(latent).all() or not latent.any():
            raise SwapFailed("the identity's embedding means nothing to the swapper")
        image = np.ascontiguousarray(target.picture[:, :, ::-1])
        try:
            swapped = self._model.get(
                image,
                SimpleNamespace(kps=target.landmarks.astype(np.float32)),
                SimpleNamespace(normed_embedding=embedding.astype(np.float32)),
            )
        except ValueError:  # an empty mask: the face lies outside the picture
            raise SwapFailed("the face lies outside the picture") from None
        return np.ascontiguousarray(swapped[:, :, ::-1])


def load_inswapper(path: Path | None, threads: int = 1) -> InswapperSwapper:
    """Load the model file `path`; nothing is fetched, and insightface's own print is kept quiet.

    Raises IdClipError when the file is missing or no swapper.
    """
    if path is None or not path.is_file():
        missing = f"there is no swapper model {path}" if path else "the swapper inswapper needs a model file"
        raise IdClipError(
            f"{missing}; fetch inswapper_128.onnx as https://github.com/deepinsight/insightface tells and give it with "
            f"--swapper-model FILE ({_LICENCE}), or use --swapper blend"
        )
    import onnxruntime
    from insightface.model_zoo.inswapper import INSwapper

    read_graph(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        image, latent = (entry.shape for entry in session.get_inputs())
        with contextlib.redirect_stdout(io.StringIO()):
            model = INSwapper(str(path), session)
        whole = model.emap.ndim == 2 and model.emap.shape[0] == model.emap.shape[1] == latent[-1]
        if not whole or image[1] != 3 or not isinstance(image[2], int) or image[2] != image[3]:
            raise IdClipError(f"{path} is no INSwapper model: it takes {image} and {latent}")
    except IdClipError:
        raise
    except Exception as error:  # onnxruntime's errors share no base class; assertions come from insightface
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise IdClipError(f"the swapper model {path} cannot be loaded ({reason}); fetch it again") from None
    return InswapperSwapper(model, int(latent[-1]))
