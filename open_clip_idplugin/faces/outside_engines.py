"""Engine plugins: a function of an installed module, or an entry point -> detector and encoder.

Role: specs `<module>:<function>` and `<module>:<function>:<name>`, and `<entry point>:<name>` of the group
`open_clip_idplugin.face_engines`, whose entry points name such a function. It is called as `function(name, options)`
(name "" where none is given, options an `EngineOptions`) and returns one object, or a detector and an encoder. Such a spec
runs the code it names, in worker processes too: it comes from whoever starts the program and from no request.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, cast

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.engine import EngineOptions, FaceDetector, FaceEncoder
from open_clip_idplugin.faces.errors import EngineInvalid
from open_clip_idplugin.faces.licences import announce

GROUP = "open_clip_idplugin.face_engines"
Maker = Callable[[str, EngineOptions], Any]
_FUNCTION = re.compile(
    r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)(:(?P<name>.*))?", re.DOTALL
)
_ENCODER: Mapping[str, type] = {
    "model_id": str,
    "embedding_size": int,
    "crop_size": int,
    "batch": int,
    "fixed_batch": bool,
}


def find_maker(spec: str) -> tuple[Maker, str] | None:
    """The function that a spec names, and the name it is called with; None for what is no such spec.

    Raises EngineInvalid where the module or the function cannot be had.
    """
    kind, _, name = spec.partition(":")
    entry = next((point for point in entry_points(group=GROUP) if point.name == kind), None)
    if entry is not None:
        try:
            return cast(Maker, entry.load()), name
        except Exception as error:  # whatever the other package does when it is imported
            raise EngineInvalid(
                f"The face engine {kind!r}, which the entry point {entry.value!r} names, cannot be imported "
                f"({_short(error)}); install its package again."
            ) from error
    written = _FUNCTION.fullmatch(spec)
    return None if written is None else (_import(spec, written["module"], written["function"]), written["name"] or "")


def make_engine(spec: str, options: EngineOptions) -> tuple[Any, Any]:
    """Call the function of a spec; returns what is its detector and what its encoder, checked by nobody yet."""
    found = find_maker(spec)
    assert found is not None  # split_spec has let it pass
    maker, name = found
    try:
        made = maker(name, options)
    except IdClipError:
        raise
    except Exception as error:  # code from outside
        raise EngineInvalid(f"The face engine {spec!r} cannot be made ({_short(error)}).") from error
    if isinstance(made, tuple) and len(made) == 2:
        return made
    return made, made


def require_detector(made: tuple[Any, Any], spec: str) -> FaceDetector:
    """The detector of what was made; raises EngineInvalid where it is none."""
    detector = made[0]
    if not callable(getattr(detector, "detect", None)):
        raise EngineInvalid(
            f"The face engine {spec!r} has no detector: its {_kind_of(detector)} lacks detect(picture); put a detector before "
            f"it, such as opencv:<folder>+{spec}."
        )
    return cast(FaceDetector, detector)


def require_encoder(made: tuple[Any, Any], spec: str) -> FaceEncoder:
    """The encoder of what was made, with its licence said where it has one; raises EngineInvalid where it is none."""
    encoder = made[1]
    missing = [] if callable(getattr(encoder, "encode", None)) else ["encode(crops)"]
    missing += [f"{name}: {kind.__name__}" for name, kind in _ENCODER.items() if not _has(encoder, name, kind)]
    if missing:
        raise EngineInvalid(
            f"The face engine {spec!r} has no encoder: its {_kind_of(encoder)} lacks {', '.join(missing)}; see "
            "open_clip_idplugin.faces.engine.FaceEncoder."
        )
    if licence := getattr(encoder, "licence", None):
        announce(f"Face encoder {encoder.model_id!r}", f"its licence: {licence}")
    return cast(FaceEncoder, encoder)


def _import(spec: str, module: str, function: str) -> Maker:
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise EngineInvalid(f"The module {module!r} of the face engine {spec!r} needs {error.name!r}.") from error
        raise EngineInvalid(
            f"Unknown face engine {spec!r}: there is no kind and no Python module {module!r}; write the kind as "
            f"insightface, opencv, dlib, timm or onnx, or put the module's folder on PYTHONPATH."
        ) from error
    except Exception as error:  # whatever the module does when it is imported
        raise EngineInvalid(
            f"The module {module!r} of the face engine {spec!r} cannot be imported ({_short(error)})."
        ) from error
    if not callable(found):
        raise EngineInvalid(
            f"The module {module!r} has no function {function!r}, which the face engine {spec!r} names."
        )
    return cast(Maker, found)


def _has(encoder: Any, name: str, kind: type) -> bool:
    value = getattr(encoder, name, None)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    return isinstance(value, kind) and value != ""


def _kind_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _short(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines else type(error).__name__
