"""Model options: `--id-*` flags, one for every field of `IdentityConfig` -> the `identity_cfg` that the host's factory is given.

Role: overrides of the model's own config, and whether the built model is what they ask for.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from open_clip_idplugin.config import IdentityConfig, parse_setting
from open_clip_idplugin.errors import IdClipError

_FIELDS = {known.name: known for known in dataclasses.fields(IdentityConfig)}


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every model option; what is not given stays as the model's config has it."""
    group = parser.add_argument_group("model options (else as in the model's identity_cfg)")
    for name, known in _FIELDS.items():
        settings: dict[str, Any] = {"metavar": "VALUE"}
        if "choices" in known.metadata:
            settings["metavar"] = "{" + ",".join(known.metadata["choices"]) + "}"
        if known.type is bool:
            settings |= {"metavar": "true|false", "nargs": "?", "const": "true"}
        group.add_argument(_flag(name), dest=name, help=known.metadata["help"], **settings)


def take_model_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """Remove the model options from what was parsed and return those that were given; raises IdClipError."""
    texts = {name: vars(namespace).pop(name) for name in _FIELDS}
    given = {}
    for name, text in texts.items():
        if text is None:
            continue
        try:
            given[name] = parse_setting(name, text)
        except IdClipError as error:
            raise IdClipError(f"{_flag(name)} is {text!r}: {error}") from None
    return given


def changed_config(
    model_name: str, changes: Mapping[str, Any], trained: IdentityConfig | None = None
) -> dict[str, Any]:
    """The `identity_cfg` for the host's factory; raises IdClipError for a model without one, or one that is not by name.

    trained: of the delta that training goes on from, in place of the model's own.
    """
    import open_clip

    config = open_clip.get_model_config(model_name) or {}
    if config.get("identity_cfg") is None:
        raise IdClipError(
            f"{_flag(next(iter(changes)))} is for models that take faces by open_clip's own name, and {model_name} is none; "
            "drop it or choose a model whose config has an identity_cfg."
        )
    return (trained or IdentityConfig.from_dict(config["identity_cfg"])).override(changes).to_dict()


def require_as_asked(config: IdentityConfig, changes: Mapping[str, Any], weights: str | None) -> None:
    """Refuse weights that made something else of the model than the flags asked for."""
    for name, value in changes.items():
        now = getattr(config, name)
        same = (now == "none") == (value == "none") if "blocks" in _FIELDS[name].metadata else now == value
        if not same:
            raise IdClipError(
                f"{_flag(name)} is {value!r}, but the weights {weights} were trained with {now!r}; drop the flag or start "
                "from other weights."
            )


def require_size_taken(model: Any, model_name: str, size: Any) -> None:
    """Refuse a `--force-image-size` that the image tower cannot take: open_clip resizes what it knows, timm's towers may not."""
    if size is None:
        return
    import torch

    from open_clip_idplugin.storage.weight_files import first_lines

    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    visual, training = model.visual, model.visual.training
    visual.eval()  # statistics of batches stay as they are
    weights = next(visual.parameters())
    try:
        with torch.no_grad():
            visual(torch.zeros(1, 3, height, width, dtype=weights.dtype, device=weights.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise IdClipError(
            f"the image tower of {model_name} takes no pictures of {height} x {width} pixels ({first_lines(error)}); drop "
            "--force-image-size."
        ) from error
    finally:
        visual.train(training)


def _flag(name: str) -> str:
    return "--id-" + name.replace("_", "-")
