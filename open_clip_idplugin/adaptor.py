"""The adaptor: face embeddings [..., D] -> identity tokens [..., n, width] of the text tower.

Linear, ReLU (once or twice), Linear, without bias by default: the MLP of Messina et al. (ECIR 2025, arXiv 2412.21009).
Optional: LayerNorm before each ReLU, a linear shortcut from face to tokens, tokens of a set or learned length.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from open_clip_idplugin.config import FIXED, INITIAL, LEARNED, STORED, IdentityConfig

# Standard deviation of the numbers of a fresh token embedding in open_clip's text towers.
TOKEN_STD = 0.02


class IdentityAdaptor(nn.Module):
    """Face embedding -> the n token vectors that stand for the person."""

    def __init__(self, config: IdentityConfig, width: int) -> None:
        """Build for a text tower of `width`; the initial tokens are as long as a fresh tower's ordinary ones."""
        super().__init__()
        self.width = width
        self.face_dim = config.face_dim
        self.tokens_per_identity = config.tokens_per_identity
        sizes = [config.face_dim] + [config.adaptor_hidden] * config.adaptor_layers
        self.hidden = nn.ModuleList(
            nn.Linear(before, after, bias=config.adaptor_bias) for before, after in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(_Norm(size) if config.adaptor_norm else nn.Identity() for size in sizes[1:])
        numbers = config.tokens_per_identity * width
        self.output = nn.Linear(sizes[-1], numbers, bias=config.adaptor_bias)
        self.shortcut = nn.Linear(config.face_dim, numbers, bias=False) if config.adaptor_residual else None
        self._starts_at_token_norm = config.token_norm == INITIAL
        fresh_norm = torch.tensor(TOKEN_STD * math.sqrt(width))
        self.register_buffer("token_norm", fresh_norm if config.token_norm == FIXED else None)
        self.register_parameter("token_scale", nn.Parameter(fresh_norm) if config.token_norm == LEARNED else None)
        # Nothing reads its value: that it is among the weights says how faces are to be taken.
        self.register_buffer("face_length", torch.tensor(1.0) if config.face_length == STORED else None)
        self._initialize(config)

    def _initialize(self, config: IdentityConfig) -> None:
        # A unit vector has mean square 1 / face_dim; the hidden layers keep it (LayerNorm and ReLU make it 1 / 2), the
        # last one raises it to a token's.
        for layer in self.hidden:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        inverse_square = 2 if config.adaptor_norm else config.face_dim
        nn.init.normal_(self.output.weight, std=TOKEN_STD * math.sqrt(inverse_square / self.output.in_features))
        if self.shortcut is not None:
            nn.init.zeros_(self.shortcut.weight)
        for layer in [*self.hidden, self.output]:
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_at(self, token_norm: torch.Tensor) -> None:
        """Before training: begin with tokens of this length [], where the config says so."""
        length = self._length
        if length is not None:
            length.copy_(token_norm)
        elif self._starts_at_token_norm:
            probes = torch.randn(64, self.face_dim, generator=torch.Generator().manual_seed(0))
            now = self(probes.to(self.output.weight.device)).float().norm(dim=-1).mean()
            self.output.weight.mul_(token_norm.to(now) / now)

    @property
    def _length(self) -> torch.Tensor | None:
        return self.token_norm if self.token_scale is None else self.token_scale

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """[..., D] of any length and float dtype -> [..., n, width] in the weights' (or autocast's) dtype.

        Embeddings are brought to unit length in float32 first, so that means of several photos and embeddings that
        were never normalised mean the same; a row of zeros stays zero. With `face_length` "stored" they stay as they are.
        """
        taken = faces.float() if self.face_length is not None else F.normalize(faces.float(), dim=-1)
        features = taken = taken.to(self.output.weight.dtype)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            features = F.relu(norm(layer(features)))
        tokens: torch.Tensor = self.output(features)
        if self.shortcut is not None:
            tokens = tokens + self.shortcut(taken)
        tokens = tokens.unflatten(-1, (self.tokens_per_identity, self.width))
        length = self._length
        return tokens if length is None else (F.normalize(tokens.float(), dim=-1) * length).to(tokens.dtype)


class _Norm(nn.LayerNorm):
    """LayerNorm in float32 whatever the dtypes of input and weights; open_clip's bf16 leaves the weights in float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)
