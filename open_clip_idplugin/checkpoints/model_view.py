"""The view of a model: how it reads pictures and texts beside its name and weights, as arguments of open_clip's factory.

Role: a built model and the host's flags -> a small table -> the same model again, wherever its weights are loaded. Flags of
training change it (`--image-mean`, `--force-quick-gelu`, ...), pretrained tags bring their own, and no weight tells of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from open_clip_idplugin.errors import IdClipError

# Key of open_clip's `preprocess_cfg` -> parameter of its factory.
PREPROCESSING = {
    "mean": "image_mean",
    "std": "image_std",
    "interpolation": "image_interpolation",
    "resize_mode": "image_resize_mode",
}
# Parameters of the factory (and training flags of these names) -> the place in a model config that they overwrite.
_FORCED: Mapping[str, tuple[str, ...]] = {
    "force_quick_gelu": ("quick_gelu",),
    "force_image_size": ("vision_cfg", "image_size"),
    "force_context_length": ("text_cfg", "context_length"),
}
_LOGIT_BIAS = "init_logit_bias"  # makes the weight; its value comes with the weights
NAMES = (*PREPROCESSING.values(), *_FORCED, _LOGIT_BIAS)

View = Mapping[str, Any]  # one of `NAMES` -> value


def view_of(model: Any, settings: Mapping[str, Any]) -> View:
    """The view of the bare model that open_clip's factory has built with the keyword arguments `settings`."""
    view = dict(preprocessing_view(getattr(model.visual, "preprocess_cfg", {})))
    view |= {name: value for name in _FORCED if (value := settings.get(name))}
    if getattr(model, "logit_bias", None) is not None:
        view[_LOGIT_BIAS] = 0.0
    return {name: _plain(value) for name, value in view.items()}


def preprocessing_view(preprocess: Mapping[str, Any]) -> View:
    """A hub config's `preprocess_cfg` in this form."""
    return {name: _plain(preprocess[key]) for key, name in PREPROCESSING.items() if preprocess.get(key) is not None}


def read_view(values: Any, path: object) -> View:
    """What was found in the file `path`, as JSON gives it; raises IdClipError for anything else than a view."""
    if not isinstance(values, dict) or not set(values) <= set(NAMES) or not all(map(_is_simple, values.values())):
        raise IdClipError(f"{path} does not say how its model reads pictures; get the file again or delete it.")
    return {name: _plain(value) for name, value in values.items()}


def require_takes(view: View, what: str) -> None:
    """Raise IdClipError where the installed open_clip cannot build `what` with this view."""
    import open_clip

    known = inspect.signature(open_clip.create_model_and_transforms).parameters
    for name in view:
        if name not in known and name != _LOGIT_BIAS:
            raise IdClipError(f"{what} was trained with --{name.replace('_', '-')}, for which open_clip 3 is needed.")


def with_view(config: Mapping[str, Any], view: View) -> dict[str, Any]:
    """A model config with what the view overwrites of it, as open_clip's factory does."""
    changed = dict(config)
    for name, place in _FORCED.items():
        if name not in view:
            continue
        *folder, key = place
        if folder:
            changed[folder[0]] = {**changed[folder[0]], key: view[name]}
        else:
            changed[key] = view[name]
    return changed | ({_LOGIT_BIAS: view[_LOGIT_BIAS]} if _LOGIT_BIAS in view else {})


def differences(one: View, other: View) -> list[str]:
    """Flags by whose values two views differ; what one of them does not know counts only where it is forced."""
    known = set(_FORCED) | (set(one) & set(other))
    return [f"--{name.replace('_', '-')}" for name in NAMES if name in known and one.get(name) != other.get(name)]


def _plain(value: Any) -> Any:
    """Tuples as in open_clip's own configs: how an image index was made is told by their text."""
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _is_simple(value: Any) -> bool:
    numbers = value if isinstance(value, list) and len(value) <= 4 else [value]
    return isinstance(value, str) or all(isinstance(number, (int, float)) for number in numbers)
