"""clip-retrieval's resources: an opened index -> what its services expect, with everything of ours beside it."""

from dataclasses import dataclass, fields
from pathlib import Path

from clip_retrieval.clip_back import ClipResource

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.retrieval.ranking.opened_index import IndexOpener, OpenedIndex
from open_clip_idplugin.retrieval.service.mapped_weights import leave_weights_in_file


@dataclass
class IdentityResource(ClipResource, OpenedIndex):
    """clip-retrieval's resource of one index, which is one of ours too."""


class ResourceOpener:
    """Opens indices for one model, with what they share."""

    def __init__(self, loaded: LoadedModel, mmap: bool = False) -> None:
        """See `IndexOpener`; `mmap` leaves the weights on the disk too."""
        self._open = IndexOpener(loaded, mmap)
        self._tokenizer = loaded.tokenizer
        if mmap:
            leave_weights_in_file(loaded)

    def __call__(self, folder: Path) -> IdentityResource:
        """Open an index folder; raises as `IndexOpener`."""
        opened = self._open(folder)
        return IdentityResource(
            tokenizer=self._tokenizer,
            model_txt_mclip=None,
            safety_model=None,
            violence_detector=None,
            ivf_old_to_new_mapping=None,
            columns_to_return=opened.metadata_provider.columns,
            metadata_is_ordered_by_ivf=False,
            aesthetic_embeddings=None,
            **{field.name: getattr(opened, field.name) for field in fields(opened)},
        )
