"""What makes an IdCLIP of a CLIP: the `identity_cfg` of a model config -> a checked, frozen `IdentityConfig`.

The dictionary comes from JSON or from `open_clip.create_model(name, identity_cfg={...})`, which replaces it whole.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from open_clip_idplugin.errors import IdClipError

# Key -> smallest and largest allowed value.
_RANGES: Mapping[str, tuple[int, int]] = {
    "face_dim": (1, 1 << 16),
    "adaptor_hidden": (1, 1 << 16),
    "adaptor_layers": (1, 2),
    "tokens_per_identity": (1, 64),
    "visual_prompts": (0, 1024),
}


@dataclass(frozen=True)
class IdentityConfig:
    """Shape of the parts that IdCLIP adds to the towers (Messina et al., ECIR 2025, arXiv 2412.21009).

    face_dim: size of a face embedding. adaptor_hidden, adaptor_layers (1 or 2), adaptor_bias: the adaptor's hidden
    layers. tokens_per_identity: token vectors that one face becomes. visual_prompts: learnable tokens of the image
    tower (0 = none, which keeps image features, and so every image index, those of the plain model).
    """

    face_dim: int = 512
    adaptor_hidden: int = 768
    adaptor_layers: int = 1
    adaptor_bias: bool = False
    tokens_per_identity: int = 1
    visual_prompts: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise IdClipError(f"identity_cfg: {name} must be a whole number from {low} to {high}, not {value!r}.")
        if not isinstance(self.adaptor_bias, bool):
            raise IdClipError(f"identity_cfg: adaptor_bias must be true or false, not {self.adaptor_bias!r}.")

    @classmethod
    def from_dict(cls, settings: "Mapping[str, Any] | IdentityConfig") -> "IdentityConfig":
        """Build from the JSON form; a config passes through. Raises IdClipError on unknown keys or bad values."""
        if isinstance(settings, cls):
            return settings
        if not isinstance(settings, Mapping):
            raise IdClipError(f"identity_cfg must be a dictionary such as {{'visual_prompts': 5}}, not {settings!r}.")
        allowed = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(allowed))
        if unknown:
            raise IdClipError(
                f"identity_cfg has no key {', '.join(map(repr, unknown))}; allowed: {', '.join(allowed)}."
            )
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, every key spelled out."""
        return asdict(self)
