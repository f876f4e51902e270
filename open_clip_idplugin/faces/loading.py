"""Engine loading: a spec such as `insightface:buffalo_l` -> a face engine (which detector, which encoder, on what hardware).

Role: the table of kinds of engines. A kind gives a detector, an encoder or both; `A+B` takes the detector of A and the
encoder of B. Kinds of other packages and plain functions join by `outside_engines`. Modules of hosts are imported with the
first engine of their kind.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from open_clip_idplugin.faces.engine import EngineOptions, FaceDetector, FaceEncoder, FaceEngine
from open_clip_idplugin.faces.errors import EngineUnknown
from open_clip_idplugin.faces.outside_engines import find_maker, make_engine, require_detector, require_encoder

DEFAULT_SPEC = "insightface:buffalo_l"


class EngineKind(NamedTuple):
    """A kind of engine: functions of `module` that take (name, options), and how its specs are written."""

    module: str
    form: str
    detector: str | None = "load_detector"
    encoder: str | None = "load_encoder"


_FACES = "open_clip_idplugin.faces"
KINDS: Mapping[str, EngineKind] = {
    "insightface": EngineKind(f"{_FACES}.insightface_pack", "insightface:<pack>"),
    "opencv": EngineKind(f"{_FACES}.opencv_models", "opencv:default or opencv:<folder>"),
    "dlib": EngineKind(f"{_FACES}.dlib_models", "dlib:hog or dlib:cnn"),
    "timm": EngineKind(f"{_FACES}.timm_encoder", "timm:<name>@<checkpoint>", detector=None),
    "onnx": EngineKind(f"{_FACES}.onnx_encoder", "onnx:<file>", detector=None),
}
_OUTSIDE_FORM = "<module>:<function>"
_NEXT_SPEC = re.compile(r"\+(?=[A-Za-z_][\w.]*:)")  # a plus inside a file's name stays there


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
            pack of drawn faces; `opencv:<folder>` for YuNet and SFace; `dlib:hog` and `dlib:cnn`; `timm:<name>@<checkpoint>`,
            `timm:<folder>` and `onnx:<file>`, encoders only, as in `opencv:models+onnx:models/net.onnx`;
            `<module>:<function>` for code of your own (see `outside_engines`), which is imported and run.
        det_size: side of the square the detector sees a picture in, a multiple of 32 from 64 on; None takes what the
            pack's manifest recommends (192 for the shipped pack), else the detector's own (640; dlib:hog 800).
        providers: onnxruntime execution providers; None takes CUDA where it is available, else the CPU. timm follows
            the same choice with torch; opencv runs on the CPU alone.
        threads: threads of one call; None leaves it to the host. OpenCV and torch keep one number for the process.

    Raises:
        EngineUnknown: unknown kind of engine, or two that do not fit together.
        EngineInvalid: code from outside that is no face engine.
        PackNotFound, PackInvalid: with what is missing and where it belongs.
        ProviderUnavailable: hardware that is not there.
        IdClipError: impossible option.
    """
    options = EngineOptions(det_size, None if providers is None else tuple(providers), threads)
    detection, encoding = split_spec(str(spec))
    made = {part: make_engine(part, options) for part in {detection, encoding} if part.partition(":")[0] not in KINDS}
    if detection in made:
        detector = require_detector(made[detection], detection)
    else:
        detector = cast(FaceDetector, _load(detection, "detector", options))
    if encoding in made:
        encoder = require_encoder(made[encoding], encoding)
    else:
        encoder = cast(FaceEncoder, _load(encoding, "encoder", options))
    return FaceEngine(detector, encoder)


def split_spec(spec: str) -> tuple[str, str]:
    """Return the specs of the detector and of the encoder; equal when one names both.

    Raises EngineUnknown when the spec is none, or a part lacks what it is named for; EngineInvalid as `find_maker`.
    """
    parts = _NEXT_SPEC.split(spec)
    for part in parts:
        kind, _, name = part.partition(":")
        if not (name and kind in KINDS) and (kind in KINDS or find_maker(part) is None):
            forms = ", ".join([*(kind.form for kind in KINDS.values()), _OUTSIDE_FORM])
            raise EngineUnknown(f"Unknown face engine {spec!r}; give one of: {forms}, or <detector>+<encoder> of two.")
    if len(parts) > 2:
        raise EngineUnknown(f"The face engine {spec!r} names {len(parts)} engines; give <detector>+<encoder> at most.")
    detection, encoding = parts[0], parts[-1]
    own = KINDS.get(detection.partition(":")[0])
    if own is not None and own.detector is None:
        raise EngineUnknown(
            f"The face engine {spec!r} has no detector: {detection} only embeds; "
            f"put one before it, such as insightface:buffalo_l+{encoding} or opencv:<folder>+{encoding}."
        )
    return detection, encoding


def _load(spec: str, part: str, options: EngineOptions) -> object:
    kind, _, name = spec.partition(":")
    function = getattr(KINDS[kind], part)
    return getattr(importlib.import_module(KINDS[kind].module), function)(name, options)
