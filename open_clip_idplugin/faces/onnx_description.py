"""Description of an ONNX recognition net: `net.onnx.json` -> how its crops are cut, scaled and fed.

An ONNX graph does not say it, and a wrong guess costs accuracy without a word. The file is one JSON object:

    input_size     side of the square input, in pixels
    channels       "RGB" or "BGR"
    pixel_range    255 or 1: the largest value of a pixel, which mean and deviation are meant for
    mean           one number or one for each channel in the order of `channels`: input = (pixel - mean) / deviation
    deviation      the same
    normalisation  "fixed" (the default: mean and deviation as given) or "crop" (each crop's own; the two are left out)
    alignment      "arcface" (the default: five landmarks to ArcFace's reference points), [[x, y] x 5] in pixels of the
                   input (other reference points), or {"box": margin}: the square around the box, wider by `margin` of its
                   longer side on every side
    output         name of the output that is the embedding, where there are several
    name, licence  for people

Embeddings are always scaled to length 1 afterwards.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.faces.errors import ManifestBroken, PackNotFound
from open_clip_idplugin.faces.model_identity import description_hash
from open_clip_idplugin.storage.finite_json import json_text

TEMPLATE = (
    '{"name": "MyNet", "licence": "...", "input_size": 112, "channels": "RGB", "pixel_range": 255, "mean": 127.5, '
    '"deviation": 127.5, "alignment": "arcface"}'
)
_FIELDS = (
    *("input_size", "channels", "pixel_range", "mean", "deviation", "normalisation", "alignment", "output"),
    *("name", "licence"),
)
_MOST_BYTES = 1 << 16
_LEAST_SIDE, _MOST_SIDE = 16, 1024
_SMALLEST_DEVIATION = 1e-6


class DescriptionError(ManifestBroken):
    """The description of a net is missing a field, or holds a value that is none."""


@dataclass(frozen=True)
class OnnxDescription:
    """A description that was checked.

    mean, deviation: [3] in units of pixels from 0 to 255, in the order of `channels`; None: of each crop. reference: [5, 2] or
    None for ArcFace's. margin: of the box, None where landmarks align.
    """

    path: Path
    input_size: int
    channels: str
    mean: np.ndarray | None
    deviation: np.ndarray | None
    reference: np.ndarray | None = None
    margin: float | None = None
    output: str | None = None
    name: str | None = None
    licence: str | None = None

    def scale(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] in the order of `channels` -> float32 of the same shape."""
        values = pixels.astype(np.float32)
        if self.mean is not None and self.deviation is not None:
            return (values - self.mean.astype(np.float32)) / self.deviation.astype(np.float32)
        axes = (1, 2, 3)
        deviation = np.maximum(values.std(axis=axes, keepdims=True), 1 / np.sqrt(values[0].size))  # as FaceNet's own
        return (values - values.mean(axis=axes, keepdims=True)) / deviation

    @cached_property
    def digest(self) -> str:
        """Of all that decides about the embeddings: equal for 0.5 in [0, 1] and 127.5 in [0, 255]."""
        listed = {
            name: None if value is None else np.round(value, 4).tolist()
            for name, value in (("mean", self.mean), ("deviation", self.deviation), ("reference", self.reference))
        }
        return description_hash(
            {
                **listed,
                "input_size": self.input_size,
                "channels": self.channels,
                "margin": self.margin,
                "output": self.output,
            }
        )


def read_description(model: Path) -> OnnxDescription:
    """The description beside a model file.

    Raises:
        PackNotFound: there is none; the sentence holds a template.
        DescriptionError: with the field, the value and what belongs there.
    """
    places = (model.with_name(f"{model.name}.json"), model.with_suffix(".json"))
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise PackNotFound(
            f"The net {model} has no description beside it, without which nobody knows how to feed it; write {places[0]}, "
            f"such as {TEMPLATE}."
        )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 10} KB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DescriptionError(f"The description {path} cannot be read as JSON ({error}); write {TEMPLATE}.") from None
    if not isinstance(values, dict):
        raise DescriptionError(f"The description {path} is no JSON object; write {TEMPLATE}.")
    return _Reader(path, values).description()


class _Reader:
    """Reads field by field; every refusal names the file, the field and what belongs there."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self._path, self._values = path, values

    def description(self) -> OnnxDescription:
        unknown = sorted(set(self._values) - set(_FIELDS))
        if unknown:
            raise DescriptionError(
                f"The description {self._path} has the unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}."
            )
        size = self._needed("input_size")
        self._require(_is_int(size) and _LEAST_SIDE <= size <= _MOST_SIDE, "input_size", "an integer from 16 to 1024")
        channels = self._needed("channels")
        self._require(channels in ("RGB", "BGR"), "channels", '"RGB" or "BGR"')
        mean, deviation = self._scaling()
        reference, margin = self._alignment()
        texts = {name: self._text(name) for name in ("output", "name", "licence")}
        return OnnxDescription(self._path, size, channels, mean, deviation, reference, margin, **texts)

    def _scaling(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        kind = self._values.get("normalisation", "fixed")
        self._require(kind in ("fixed", "crop"), "normalisation", '"fixed" or "crop"')
        if kind == "crop":
            given = next((name for name in ("mean", "deviation", "pixel_range") if name in self._values), None)
            self._require(
                given is None, given or "mean", 'nothing beside normalisation "crop", where each crop has its own'
            )
            return None, None
        largest = self._needed("pixel_range")
        self._require(largest in (1, 255) and not isinstance(largest, bool), "pixel_range", "1 or 255")
        mean, deviation = (self._channels(name) * 255 / largest for name in ("mean", "deviation"))
        self._require(bool((deviation > _SMALLEST_DEVIATION).all()), "deviation", "numbers above 0")
        return mean, deviation

    def _channels(self, name: str) -> np.ndarray:
        value = self._needed(name)
        numbers = value if isinstance(value, list) else [value] * 3
        fit = len(numbers) == 3 and all(_is_number(number) for number in numbers)
        self._require(fit, name, "a number, or three (one for each channel)")
        return np.array(numbers, np.float64)

    def _alignment(self) -> tuple[np.ndarray | None, float | None]:
        value = self._values.get("alignment", "arcface")
        if value == "arcface":
            return None, None
        if isinstance(value, dict):
            margin: Any = value.get("box")
            fit = set(value) == {"box"} and _is_number(margin) and -0.4 <= margin <= 2
            self._require(fit, "alignment", 'a margin from -0.4 to 2 in {"box": margin}')
            return None, float(margin)
        points = isinstance(value, list) and len(value) == 5 and all(_is_point(point) for point in value)
        self._require(points, "alignment", '"arcface", five reference points [x, y], or {"box": margin}')
        return np.array(value, np.float64), None

    def _text(self, name: str) -> str | None:
        value = self._values.get(name)
        fit = value is None or (isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200)
        self._require(fit, name, "a short text")
        return value

    def _needed(self, name: str) -> Any:
        if name not in self._values:
            raise DescriptionError(f"The description {self._path} lacks {name!r}; a whole one is {TEMPLATE}.")
        return self._values[name]

    def _require(self, fit: bool, name: str, wanted: str) -> None:
        if not fit:
            seen = json_text(self._values.get(name))[:60]
            raise DescriptionError(f"The description {self._path} gives {name} {seen}; it must be {wanted}.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_number(number) for number in value)
