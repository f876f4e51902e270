"""IdCLIP: open_clip's CustomTextCLIP with an adaptor in the text tower and, if configured, prompts in the image tower.

Images [B, 3, H, W] and texts (token ids [B, L] or an `IdentityText`) -> features [B, D]. Without faces, prompts and LoRA
the features are those of the plain model with the same weights. What the state dict holds beyond CustomTextCLIP's is
spelled in `weight_keys`.
Paper: Messina et al., Towards Identity-Aware Cross-Modal Retrieval, ECIR 2025, arXiv 2412.21009.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from open_clip_idplugin.adaptor import IdentityAdaptor
from open_clip_idplugin.config import NO_BLOCKS, IdentityConfig, blocks_text
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.identity_text import IdentityText
from open_clip_idplugin.lora import merge_lora, remove_lora, set_lora
from open_clip_idplugin.text_prompts import set_text_prompts
from open_clip_idplugin.text_tower import promote_text_tower, refuse_hugging_face_tower
from open_clip_idplugin.visual_prompts import set_visual_prompts
from open_clip_idplugin.weight_keys import (
    ADAPTOR,
    IMAGE_TOWER,
    OPENAI_FACTS,
    OWN_PARTS,
    PROMPT_TOKENS,
    TEXT_EMBEDDING,
    TEXT_PROMPT_TOKENS,
    adaptor_settings,
    config_of_weights,
    part_of,
)

_log = logging.getLogger(__name__)


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
        refuse_hugging_face_tower(text_cfg)
        super().__init__(embed_dim, vision_cfg, text_cfg, **host_settings)
        self._frozen_statistics: set[str] = set()
        promote_text_tower(self.text, config)
        self._match_token_norm(self.text.token_embedding.weight)
        self.identity_cfg = replace(IdentityConfig(), **adaptor_settings(config))
        self._add_parts(config)

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
        features: torch.Tensor = (
            _encoded_before(image, normalize) if image.ndim == 2 else super().encode_image(image, normalize=normalize)
        )
        return features

    def _encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """As `encode_image`; the forward pass of open_clip's main calls it."""
        features: torch.Tensor = (
            _encoded_before(image, normalize) if image.ndim == 2 else super()._encode_image(image, normalize=normalize)
        )
        return features

    def encode_text(self, text: torch.Tensor | IdentityText, normalize: bool = False) -> torch.Tensor:
        """Token ids [B, L] int64 or IdentityText -> features [B, D], of unit length if `normalize`."""
        features: torch.Tensor = super().encode_text(text, normalize=normalize)
        return features

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the image tower (its projection too, unless groups stay unlocked) but not what was added to it.

        Locked means locked: running statistics of frozen BatchNorms stay as well, whatever `freeze_bn_stats` says. The host
        would put other modules in their places, which lose timm's activations and change the state dict.
        """
        super().lock_image_tower(unlocked_groups=unlocked_groups, freeze_bn_stats=False)
        for name, parameter in self.visual.named_parameters():
            if part_of(f"visual.{name}") != IMAGE_TOWER:
                parameter.requires_grad = True
            elif unlocked_groups == 0:
                parameter.requires_grad = False  # the host leaves the projection of a timm tower trainable
        self._freeze_statistics(self.visual, "visual", whole=unlocked_groups == 0)

    def lock_text_tower(
        self, unlocked_layers: int = 0, freeze_layer_norm: bool = True, pooler_in_head: bool = True
    ) -> None:
        """Freeze the text tower, LayerNorms and running statistics included, but not what was added to it.

        pooler_in_head: of open_clip's main; says nothing about a native tower, which has no pooler.
        """
        self.text.lock(unlocked_layers, freeze_layer_norm)
        self._freeze_statistics(self.text, "text", whole=unlocked_layers == 0)

    def train(self, mode: bool = True) -> IdCLIP:
        """The host's; BatchNorms of what is locked go on using the statistics that they have."""
        super().train(mode)
        for name in self._frozen_statistics:
            self.get_submodule(name).eval()
        return self

    def _freeze_statistics(self, tower: torch.nn.Module, prefix: str, whole: bool) -> None:
        """Note the names of BatchNorms without a trainable weight (or of all, of a tower that is locked as a whole)."""
        self._frozen_statistics = {name for name in self._frozen_statistics if not name.startswith(f"{prefix}.")}
        for name, module in tower.named_modules(prefix=prefix):
            trained = any(parameter.requires_grad for parameter in module.parameters())
            if isinstance(module, _BatchNorm) and not trained and (whole or any(True for _ in module.parameters())):
                self._frozen_statistics.add(name)  # by name: the host may put synchronised ones in their places
        self.train(self.training)

    def part_of(self, name: str) -> str:
        """To which part a parameter of this name belongs, for learning rates by part.

        One of adaptor, visual_prompts, text_prompts, image_lora, text_lora (what IdCLIP adds to CLIP), image_tower,
        text_tower and temperature (scale and bias of the logits).
        """
        return part_of(name)

    def merge_lora(self) -> None:
        """Add LoRA's updates to the weights, for serving and export: the same features, without LoRA."""
        merge_lora(self)
        without: dict[str, Any] = {f.name: f.default for f in fields(IdentityConfig) if f.name.startswith("lora_")}
        self.identity_cfg = replace(self.identity_cfg, **without)

    def __prepare_scriptable__(self) -> CustomTextCLIP:
        """What torch.jit.script compiles in this model's place: the plain CLIP on the same weights, for texts without faces.

        Programs that know open_clip alone ask for `jit=True` (clip-retrieval's backend does by default), and identity tokens
        are no TorchScript. Raises IdClipError where the plain towers would give other features.
        """
        if own := sorted({part_of(name) for name in self.state_dict()} & set(OWN_PARTS) - {ADAPTOR}):
            raise IdClipError(
                f"an IdCLIP with {', '.join(own)} cannot be compiled by TorchScript: say jit=False (clip-retrieval: "
                "--use_jit False)."
            )
        text = _shared(self.text, TextTransformer, without="adaptor")
        return _shared(self, CustomTextCLIP, text=text)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's optimizers should not decay."""
        names = set()
        for prefix, tower in (("visual", self.visual), ("text", self.text)):
            if hasattr(tower, "no_weight_decay"):
                names |= {f"{prefix}.{name}" for name in tower.no_weight_decay()}
        if self.identity_cfg.visual_prompts:
            names.add(PROMPT_TOKENS)
        if self.identity_cfg.text_prompts:
            names.add(TEXT_PROMPT_TOKENS)
        return names & {name for name, _ in self.named_parameters()}  # timm names what a tower may have

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The host's, after the model's own parts took the shapes that they have in the weights.

        So a trained checkpoint loads by name alone, whatever it was configured with. The face embedding's size and the
        tokens an identity must match, because the tokenizer depends on them.
        """
        shapes = {key: tuple(value.shape) for key, value in state_dict.items() if hasattr(value, "shape")}
        told = config_of_weights(shapes, self.identity_cfg, complete=False)
        same_interface = (told.face_dim, told.tokens_per_identity) == (
            self.identity_cfg.face_dim,
            self.identity_cfg.tokens_per_identity,
        )
        if same_interface and told != self.identity_cfg:
            _log.info("IdCLIP is rebuilt as the weights are: %s.", told)
            self._reconfigure(told)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _reconfigure(self, config: IdentityConfig) -> None:
        """Replace what differs from `config`, with new initial values, on the device and in the dtype of the towers."""
        if adaptor_settings(config) != adaptor_settings(self.identity_cfg):
            self.text.adaptor = IdentityAdaptor(config, self.text.width).to(self.adaptor.output.weight)
        self._add_parts(config)

    def _add_parts(self, config: IdentityConfig) -> None:
        """Give the towers the prompts and LoRA of `config` that differ from those they have, and take it over."""
        now = self.identity_cfg
        prompts = (config.visual_prompts, config.visual_prompts_deep)
        if prompts != (now.visual_prompts, now.visual_prompts_deep):
            set_visual_prompts(self.visual, *prompts)
        if config.text_prompts != now.text_prompts:
            set_text_prompts(self.text, config.text_prompts)
        blocks: dict[str, Any] = {}
        for key, tower in (("lora_image_blocks", self.visual), ("lora_text_blocks", self.text)):
            wanted = getattr(config, key)
            details = (wanted, config.lora_rank, config.lora_targets)
            if details == (getattr(now, key), now.lora_rank, now.lora_targets):
                continue
            remove_lora(tower)
            if wanted != NO_BLOCKS:
                blocks[key] = blocks_text(set_lora(tower, key, *details))
        self.identity_cfg = replace(config, **blocks)

    def _match_token_norm(self, embedding: torch.Tensor) -> None:
        """Let identity tokens start as long as the rows [vocabulary, width] on average, where the config says so."""
        self.adaptor.start_at(embedding.detach().float().norm(dim=-1).mean())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Let a checkpoint without our parts load strictly: a part that it lacks keeps its values.

        A checkpoint that holds only some of a part's keys is left as it is, and so refused by a strict load.
        """
        for fact in OPENAI_FACTS:
            state_dict.pop(prefix + fact, None)
        held = {part_of(key.removeprefix(prefix)) for key in state_dict if key.startswith(prefix)}
        embedding = state_dict.get(prefix + TEXT_EMBEDDING)
        if ADAPTOR not in held and embedding is not None and not embedding.is_meta:
            self._match_token_norm(embedding)
        own = {name: value for name, value in self.state_dict().items() if part_of(name) in OWN_PARTS}
        lacking = sorted({part_of(name) for name in own} - held)
        if lacking:
            _log.info("The checkpoint holds no %s: initial values are kept.", ", ".join(lacking))
        state_dict.update({prefix + name: value for name, value in own.items() if part_of(name) in lacking})
        super()._load_from_state_dict(state_dict, prefix, *args)


def _shared(module: nn.Module, kind: type[nn.Module], without: str = "", **parts: nn.Module) -> Any:
    """Another module object of class `kind` with the same weights and settings, and other (or fewer) parts."""
    shared: Any = object.__new__(kind)
    held = {name: part for name, part in module._modules.items() if name != without}
    shared.__dict__.update(module.__dict__, _modules={**held, **parts})
    return shared


def _encoded_before(features: torch.Tensor, normalize: bool) -> torch.Tensor:
    return F.normalize(features, dim=-1) if normalize else features
