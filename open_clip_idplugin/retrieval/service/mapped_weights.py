"""Memory-mapped weights: loaded model -> the same model over the tensors of its file, so that what is not used takes no memory.

A service that is asked with texts never touches the image tower after its fingerprint was taken, which is more than half of a
CLIP; the system reads a part when it is needed. With the weights in memory a service of ViT-B-32 has 1.77 times the resident
memory at its start, and 1.7 times its own after texts and pictures were asked (`benchmarks/system_calls.py`).
"""

import os
from pathlib import Path

import torch

from open_clip_idplugin.checkpoints import model_folders
from open_clip_idplugin.checkpoints.delta_files import canonical
from open_clip_idplugin.checkpoints.loading import LoadedModel, base_and_delta, checkpoint_path
from open_clip_idplugin.retrieval.service.heap import return_freed_memory
from open_clip_idplugin.storage.weight_files import ARCHIVE, SAFETENSORS, kind_of, load_tensors


def leave_weights_in_file(loaded: LoadedModel) -> int:
    """Put the tensors of the model's file in the place of the parameters that equal them; returns their bytes.

    Parameters that the file does not hold as they are stay in memory: those on a GPU, in another precision, or of a delta;
    those of a TorchScript archive all do. The file must not be overwritten while the model is used (replacing it is fine).
    """
    path = _weights_file(loaded) if loaded.device.type == "cpu" else None
    if path is None:
        return 0
    file = path.stat()
    # Comparing reads all of the one mapping, which then goes; of the other one, what is used is read.
    compared, mapped = _mapped_tensors(path), _mapped_tensors(path)
    if not os.path.samestat(file, path.stat()):  # replaced between the two
        return 0
    count = 0
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            tensor = compared.get(name)
            if tensor is None or tensor.dtype != parameter.dtype or not torch.equal(tensor, parameter):
                continue
            parameter.data = mapped[name]
            count += tensor.numel() * tensor.element_size()
    return_freed_memory()
    return count


def _weights_file(loaded: LoadedModel) -> Path | None:
    if loaded.name.startswith(model_folders.PREFIX):
        return model_folders.read_folder(Path(loaded.name.removeprefix(model_folders.PREFIX))).weights
    if loaded.checkpoint is None:
        return None
    return checkpoint_path(loaded.name, base_and_delta(loaded.name, loaded.checkpoint)[0])


def _mapped_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors under the names they have in an IdCLIP; none where its format cannot be mapped."""
    if kind_of(path) not in (SAFETENSORS, ARCHIVE):
        return {}
    content = load_tensors(path, mapped=True)
    return canonical(content.get("state_dict", content))
