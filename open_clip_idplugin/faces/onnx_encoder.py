"""ONNX adapter: a recognition net and a description of its input -> face embeddings (onnxruntime).

Role: engine kind `onnx`, an encoder without a detector. `onnx:<file>` takes the description from `<file>.json`
(`net.onnx.json`, or `net.json`), see `onnx_description`. Runs in batches unless the graph takes one crop at a time.
"""

from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.faces.alignment import align_face, cut_box
from open_clip_idplugin.faces.engine import Detection, EngineOptions
from open_clip_idplugin.faces.errors import PackInvalid, PackNotFound
from open_clip_idplugin.faces.licences import UNKNOWN_LICENCE, announce
from open_clip_idplugin.faces.model_identity import ModelIdentity, weights_hash
from open_clip_idplugin.faces.onnx_description import OnnxDescription, read_description
from open_clip_idplugin.faces.onnx_files import GPU, model_files, open_session

_BATCH, _GPU_BATCH = 32, 128
_MOST_NUMBERS = 4096  # more is a classifier of a training set's people, not an embedding


class OnnxEncoder:
    """A recognition net; crops are cut, scaled and fed as its description says."""

    def __init__(self, session: Any, about: OnnxDescription, path: Path):
        self._session = session
        self._about = about
        self._path = path
        self._input = _the_input(session, path)
        self._channels_last = _check_shape(self._input.shape, about, path)
        self._output = _the_output(session, about, path)
        self.crop_size = about.input_size
        identity = ModelIdentity("onnx", about.name or path.stem, weights_hash(*model_files(path)) + about.digest)
        self.model_id = str(identity)
        self.batch, self.fixed_batch = self._find_batch(GPU in session.get_providers())
        self.embedding_size = self._find_size()

    def align(self, picture: np.ndarray, found: Detection) -> np.ndarray | None:
        """RGB uint8 [H, W, 3] and a face in it -> crop [S, S, 3] uint8, as the description says."""
        if self._about.margin is not None:
            return cut_box(picture, found.box, self.crop_size, self._about.margin)
        return align_face(picture, found.landmarks, self.crop_size, self._about.reference)

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        """N >= 1 RGB uint8 crops -> [N, D] float32, not normalised."""
        rows = self._session.run([self._output], {self._input.name: self._to_input(np.stack(crops))})[0]
        return np.asarray(rows, np.float32).reshape(len(rows), -1)

    def _to_input(self, crops: np.ndarray) -> np.ndarray:
        pixels = crops if self._about.channels == "RGB" else crops[..., ::-1]
        values = self._about.scale(pixels)
        return np.ascontiguousarray(values if self._channels_last else values.transpose(0, 3, 1, 2), np.float32)

    def _find_batch(self, on_gpu: bool) -> tuple[int, bool]:
        """Crops a run, and whether it must be exactly so many; a graph may promise any number and then not keep it."""
        declared = self._input.shape[0]
        if isinstance(declared, int) and declared > 0:
            return declared, True
        try:
            if len(self.encode([self._blank()] * 2)) == 2:
                return (_GPU_BATCH if on_gpu else _BATCH), False
        except Exception:  # onnxruntime's errors share no base class; one crop is tried next, and its error told
            pass
        return 1, True

    def _find_size(self) -> int:
        count = self.batch if self.fixed_batch else 1
        try:
            rows = self.encode([self._blank()] * count)
        except Exception as error:  # as above
            raise PackInvalid(
                f"The model file {self._path} cannot be run on a {self.crop_size}-pixel crop ({type(error).__name__}); it is "
                "no face recognition net of one picture input, or its description names another input_size."
            ) from error
        if len(rows) != count or not 2 <= rows.shape[1] <= _MOST_NUMBERS:
            raise PackInvalid(
                f"The output {self._output!r} of {self._path} has the shape {list(rows.shape)} for {count} crops, which is no "
                f"embedding of 2 to {_MOST_NUMBERS:,} numbers for each; name another output in its description."
            )
        return int(rows.shape[1])

    def _blank(self) -> np.ndarray:
        return np.full((self.crop_size, self.crop_size, 3), 127, np.uint8)


def load_encoder(name: str, options: EngineOptions) -> OnnxEncoder:
    """Open the net and its description; nothing is downloaded."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise PackNotFound(
            f"There is no model file {path}; give onnx:<file.onnx>, a face recognition net with a description beside it."
        )
    about = read_description(path)
    encoder = OnnxEncoder(open_session(path, options), about, path)
    announce(f"Face encoder {path.name!r}", f"its licence: {about.licence}" if about.licence else UNKNOWN_LICENCE)
    return encoder


def _the_input(session: Any, path: Path) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        told = "; ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise PackInvalid(
            f"The model file {path} takes {told}; a face encoder takes one float32 input [N, 3, S, S] or [N, S, S, 3]."
        )
    return inputs[0]


def _check_shape(shape: list[Any], about: OnnxDescription, path: Path) -> bool:
    """Whether the channels come last; refuses a graph that takes other pictures than the description says."""
    last = shape[3] == 3 and shape[1] != 3
    sides = shape[1:3] if last else shape[2:4]
    if not last and shape[1] != 3 and isinstance(shape[1], int):
        raise PackInvalid(f"The model file {path} takes pictures of the shape {shape[1:]}; faces have 3 channels.")
    if any(isinstance(side, int) and side > 0 and side != about.input_size for side in sides):
        raise PackInvalid(
            f"The model file {path} takes pictures of {sides[1]}x{sides[0]} pixels, but its description {about.path} gives "
            f"input_size {about.input_size}; correct it."
        )
    return last


def _the_output(session: Any, about: OnnxDescription, path: Path) -> str:
    names = [value.name for value in session.get_outputs()]
    if about.output is None and len(names) == 1:
        return names[0]
    if about.output in names:
        return str(about.output)
    told = "names none" if about.output is None else f"names {about.output!r}"
    raise PackInvalid(
        f"The model file {path} has the outputs {', '.join(names)}, and its description {about.path} {told}; "
        "write the one that is the embedding as output."
    )
