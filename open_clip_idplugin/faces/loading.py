"""From a spec such as `insightface:buffalo_l` to a face engine: which detector, which encoder, on what hardware.

Role: the table of kinds of engines. A kind gives a detector, an encoder or both; `A+B` takes the detector of A and the
encoder of B. Modules of hosts are imported with the first engine of their kind.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.engine import FaceDetector, FaceEncoder, FaceEngine
from open_clip_idplugin.faces.errors import EngineUnknown

DEFAULT_SPEC = "insightface:buffalo_l"


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs; see `load_face_engine`."""

    det_size: int | None = None
    providers: tuple[str, ...] | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.det_size is not None and (self.det_size < 64 or self.det_size % 32):
            raise IdClipError(f"det_size {self.det_size} does not fit the detector; give a multiple of 32 from 64 on.")
        if self.threads is not None and self.threads < 1:
            raise IdClipError(f"threads must be at least 1, got {self.threads}.")


class EngineKind(NamedTuple):
    """A kind of engine: functions of `module` that take (name, options), and how its specs are written."""

    module: str
    form: str
    detector: str | None = "load_detector"
    encoder: str | None = "load_encoder"


KINDS: Mapping[str, EngineKind] = {
    "insightface": EngineKind("open_clip_idplugin.faces.insightface_pack", "insightface:<pack>"),
    "opencv": EngineKind("open_clip_idplugin.faces.opencv_models", "opencv:default or opencv:<folder>"),
    "timm": EngineKind("open_clip_idplugin.faces.timm_encoder", "timm:<name>@<checkpoint>", detector=None),
}
_NEXT_SPEC = re.compile(rf"\+(?=(?:{'|'.join(KINDS)}):)")  # a plus inside a file's name stays there


def load_face_engine(
    spec: str = DEFAULT_SPEC,
    det_size: int | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
) -> FaceEngine:
    """Load a face engine; never touches the network.

    Args:
        spec: detector and encoder of one kind, or `<detector>+<encoder>` of two:
            `insightface:<name>` for a pack in insightface's folder (`~/.insightface/models/<name>`),
            `insightface:<folder>` for a pack elsewhere (with a slash in it), `insightface:miniature` for the shipped
            pack of drawn faces; `opencv:default` for the YuNet and SFace that `idclip models get opencv` fetches,
            `opencv:<folder>` for those of a folder; `timm:<name>@<checkpoint>` or `timm:<folder>`, an encoder only, as in
            `opencv:models+timm:vit_small_patch16_224@face.safetensors`.
        det_size: side of the square the detector sees a picture in, a multiple of 32 from 64 on; None takes what the
            pack's manifest recommends (192 for the shipped pack), else 640.
        providers: onnxruntime execution providers; None takes CUDA where it is available, else the CPU. timm follows
            the same choice with torch; opencv runs on the CPU alone.
        threads: threads of one call; None leaves it to the host. OpenCV and torch keep one number for the process.

    Raises:
        EngineUnknown: unknown kind of engine, or two that do not fit together.
        PackNotFound, PackInvalid: with what is missing and where it belongs.
        ProviderUnavailable: hardware that is not there.
        IdClipError: impossible option.
    """
    options = EngineOptions(det_size, None if providers is None else tuple(providers), threads)
    detection, encoding = split_spec(str(spec))
    detector = cast(FaceDetector, _load(detection, "detector", options))
    encoder = cast(FaceEncoder, _load(encoding, "encoder", options))
    return FaceEngine(detector, encoder)


def split_spec(spec: str) -> tuple[str, str]:
    """Return the specs of the detector and of the encoder; equal when one names both.

    Raises EngineUnknown when the spec is none, or a part lacks what it is named for.
    """
    parts = _NEXT_SPEC.split(spec)
    for part in parts:
        kind, separator, name = part.partition(":")
        if not separator or kind not in KINDS or not name:
            forms = ", ".join(kind.form for kind in KINDS.values())
            raise EngineUnknown(f"Unknown face engine {spec!r}; give one of: {forms}, or <detector>+<encoder> of two.")
    if len(parts) > 2:
        raise EngineUnknown(f"The face engine {spec!r} names {len(parts)} engines; give <detector>+<encoder> at most.")
    detection, encoding = parts[0], parts[-1]
    if KINDS[detection.partition(":")[0]].detector is None:
        raise EngineUnknown(
            f"The face engine {spec!r} has no detector: {detection} only embeds; "
            f"put one before it, such as insightface:buffalo_l+{encoding} or opencv:<folder>+{encoding}."
        )
    return detection, encoding


def _load(spec: str, part: str, options: EngineOptions) -> object:
    kind, _, name = spec.partition(":")
    function = getattr(KINDS[kind], part)
    return getattr(importlib.import_module(KINDS[kind].module), function)(name, options)
