"""IdCLIP: open_clip's CustomTextCLIP with an adaptor in the text tower and, if configured, prompts in the image tower.

Images [B, 3, H, W] and texts (token ids [B, L] or an `IdentityText`) -> features [B, D]. Without faces and visual
prompts the features are those of the plain model with the same weights. State-dict keys beyond CustomTextCLIP's:
    text.adaptor.hidden.<i>.weight [adaptor_hidden, .]      (and .bias where adaptor_bias is set)
    text.adaptor.output.weight [tokens_per_identity * text width, adaptor_hidden]
    visual.prompts.tokens [visual_prompts, image width]
Paper: Messina et al., Towards Identity-Aware Cross-Modal Retrieval, ECIR 2025, arXiv 2412.21009.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP

from open_clip_idplugin.adaptor import IdentityAdaptor
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.identity_text import IdentityText
from open_clip_idplugin.text_tower import promote_text_tower
from open_clip_idplugin.visual_prompts import set_visual_prompts
from open_clip_idplugin.weight_keys import ADAPTOR, OPENAI_FACTS, PROMPT_TOKENS, PROMPTS, config_of_weights

_log = logging.getLogger(__name__)
_MARK = "open_clip_idplugin_original"


class IdCLIP(CustomTextCLIP):
    """CLIP whose text tower understands `[TOK]`; made by open_clip's factory from a config with an `identity_cfg`."""

    def __init__(
        self,
        embed_dim: int,
        vision_cfg: Any,
        text_cfg: Any,
        identity_cfg: IdentityConfig | Mapping[str, Any] | None = None,
        **host_settings: Any,
    ) -> None:
        """Build the host's towers, then add to them. Raises IdClipError on a bad `identity_cfg` or an unsuitable tower."""
        config = IdentityConfig.from_dict(identity_cfg or {})
        super().__init__(embed_dim, vision_cfg, text_cfg, **host_settings)
        self.identity_cfg = config
        promote_text_tower(self.text, config)
        if config.visual_prompts:
            set_visual_prompts(self.visual, config.visual_prompts)

    @property
    def adaptor(self) -> IdentityAdaptor:
        """Face embeddings [..., face_dim] -> identity tokens [..., tokens_per_identity, text width]."""
        adaptor: IdentityAdaptor = self.text.adaptor
        return adaptor

    def forward(self, image: torch.Tensor | None = None, text: torch.Tensor | IdentityText | None = None) -> Any:
        """The host's; a dictionary also holds the `labels` of an IdentityText, so that they reach the loss."""
        output = super().forward(image, text)
        if isinstance(text, IdentityText) and self.output_dict:
            output.update(text.labels)
        return output

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Images [B, 3, H, W] -> features [B, D]; features [B, D] that were computed before pass as they are."""
        if image.ndim == 2:
            return F.normalize(image, dim=-1) if normalize else image
        features: torch.Tensor = super().encode_image(image, normalize=normalize)
        return features

    def encode_text(self, text: torch.Tensor | IdentityText, normalize: bool = False) -> torch.Tensor:
        """Token ids [B, L] int64 or IdentityText -> features [B, D], of unit length if `normalize`."""
        features: torch.Tensor = super().encode_text(text, normalize=normalize)
        return features

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the image tower (its projection too, unless groups stay unlocked) but not the visual prompts."""
        super().lock_image_tower(unlocked_groups=unlocked_groups, freeze_bn_stats=freeze_bn_stats)
        for name, parameter in self.visual.named_parameters():
            if name.startswith("prompts."):
                parameter.requires_grad = True
            elif unlocked_groups == 0:
                parameter.requires_grad = False  # the host leaves the projection of a timm tower trainable

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the text tower, LayerNorms included, but not the adaptor."""
        self.text.lock(unlocked_layers, freeze_layer_norm)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's optimizers should not decay."""
        names = set()
        for prefix, tower in (("visual", self.visual), ("text", self.text)):
            if hasattr(tower, "no_weight_decay"):
                names |= {f"{prefix}.{name}" for name in tower.no_weight_decay()}
        if self.identity_cfg.visual_prompts:
            names.add(PROMPT_TOKENS)
        return names

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The host's, after the number of visual prompts and the inner layers of the adaptor followed the weights.

        So a trained checkpoint loads by name alone, whatever it was configured with. The face embedding's size and the
        tokens an identity must match, because the tokenizer depends on them.
        """
        shapes = {key: tuple(value.shape) for key, value in state_dict.items() if hasattr(value, "shape")}
        told = config_of_weights(shapes, self.identity_cfg)
        same_interface = (told.face_dim, told.tokens_per_identity) == (
            self.identity_cfg.face_dim,
            self.identity_cfg.tokens_per_identity,
        )
        if PROMPT_TOKENS not in shapes:
            told = replace(told, visual_prompts=self.identity_cfg.visual_prompts)
        if same_interface and told != self.identity_cfg:
            _log.info("IdCLIP is rebuilt as the weights are: %s.", told)
            self._reconfigure(told)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _reconfigure(self, config: IdentityConfig) -> None:
        """Replace what differs from `config`, with new initial values, on the device and in the dtype of the towers."""
        like = self.adaptor.output.weight
        if replace(config, visual_prompts=0) != replace(self.identity_cfg, visual_prompts=0):
            self.text.adaptor = IdentityAdaptor(config, self.text.width).to(like)
        if config.visual_prompts != self.identity_cfg.visual_prompts:
            set_visual_prompts(self.visual, config.visual_prompts)
        self.identity_cfg = config

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Let a checkpoint without the adaptor (or the prompts) load strictly: what it lacks keeps its values.

        A checkpoint that holds only some of the adaptor's keys is left as it is, and so refused by a strict load.
        """
        for fact in OPENAI_FACTS:
            state_dict.pop(prefix + fact, None)
        for group in (ADAPTOR, PROMPTS):
            if any(key.startswith(prefix + group) for key in state_dict):
                continue
            own = {name: value.detach() for name, value in self.named_parameters() if name.startswith(group)}
            if own:
                _log.info("The checkpoint holds no %s*: initial values are kept.", group)
            state_dict.update({prefix + name: value for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def identity_model_or(original: Callable[..., Any]) -> Callable[..., Any]:
    """open_clip.factory's CustomTextCLIP -> one that makes an IdCLIP of configs with an `identity_cfg` (for the patch table)."""
    if hasattr(original, _MARK):
        return original

    @functools.wraps(original, updated=())
    def custom_text_clip(*args: Any, identity_cfg: Any = None, **settings: Any) -> Any:
        if identity_cfg is None:
            return original(*args, **settings)
        return functools.partial(IdCLIP, identity_cfg=identity_cfg)(*args, **settings)

    setattr(custom_text_clip, _MARK, original)
    return custom_text_clip
