"""The adaptor: face embeddings [..., D] -> identity tokens [..., n, width] of the text tower.

Linear, ReLU (once or twice), Linear, without bias by default: the MLP of Messina et al. (ECIR 2025, arXiv 2412.21009).
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from open_clip_idplugin.config import IdentityConfig

# Standard deviation of the numbers of a fresh token embedding in open_clip's text towers.
TOKEN_STD = 0.02


class IdentityAdaptor(nn.Module):
    """Face embedding -> the n token vectors that stand for the person."""

    def __init__(self, config: IdentityConfig, width: int) -> None:
        """Build for a text tower of `width`; the initial tokens are as long as the tower's ordinary ones."""
        super().__init__()
        self.width = width
        self.face_dim = config.face_dim
        self.tokens_per_identity = config.tokens_per_identity
        sizes = [config.face_dim] + [config.adaptor_hidden] * config.adaptor_layers
        self.hidden = nn.ModuleList(
            nn.Linear(before, after, bias=config.adaptor_bias) for before, after in itertools.pairwise(sizes)
        )
        self.output = nn.Linear(sizes[-1], config.tokens_per_identity * width, bias=config.adaptor_bias)
        self._initialize(config.face_dim)

    def _initialize(self, face_dim: int) -> None:
        # A unit vector has mean square 1 / face_dim; the hidden layers keep it, the last one raises it to a token's.
        for layer in self.hidden:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.output.weight, std=TOKEN_STD * math.sqrt(face_dim / self.output.in_features))
        for layer in [*self.hidden, self.output]:
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """[..., D] of any length and float dtype -> [..., n, width] in the weights' (or autocast's) dtype.

        Embeddings are brought to unit length in float32 first, so that means of several photos and embeddings that
        were never normalised mean the same; a row of zeros stays zero.
        """
        features = F.normalize(faces.float(), dim=-1).to(self.output.weight.dtype)
        for layer in self.hidden:
            features = F.relu(layer(features))
        tokens: torch.Tensor = self.output(features)
        return tokens.unflatten(-1, (self.tokens_per_identity, self.width))
