"""The weights of a model stay in their file, mapped into memory: what is not used takes none.

Role: loaded model -> the same model over the tensors of its file. A service that is asked with texts never touches the image
tower after its fingerprint was taken, which is more than half of a CLIP; the system reads a part when it is needed.
"""

import ctypes
import mmap
from pathlib import Path

import torch

from open_clip_idplugin.checkpoints import model_folders
from open_clip_idplugin.checkpoints.delta_files import canonical
from open_clip_idplugin.checkpoints.loading import LoadedModel, base_and_delta, checkpoint_path
from open_clip_idplugin.retrieval.service.heap import return_freed_memory
from open_clip_idplugin.storage.weight_files import ARCHIVE, SAFETENSORS, kind_of, load_tensors

_PAGE_OUT = 21  # Linux's MADV_PAGEOUT, which Python does not name
_library = ctypes.CDLL(None)


def leave_weights_in_file(loaded: LoadedModel) -> int:
    """Put the tensors of the model's file in the place of the parameters that equal them; returns their bytes.

    Parameters that the file does not hold as they are stay in memory: those on a GPU, in another precision, or of a delta;
    those of a TorchScript archive all do. The file must not be overwritten while the model is used (replacing it is fine).
    """
    path = _weights_file(loaded) if loaded.device.type == "cpu" else None
    mapped = _mapped_tensors(path) if path is not None else {}
    count = 0
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            tensor = mapped.pop(name, None)
            if tensor is None or tensor.dtype != parameter.dtype or not torch.equal(tensor, parameter):
                continue
            parameter.data = tensor
            _page_out(tensor)  # the comparison read it
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


def _page_out(tensor: torch.Tensor) -> None:
    """Tell the system that whole pages of a tensor are not needed now; a hint that changes no value."""
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // page * page
    if end > start and hasattr(_library, "madvise"):
        _library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _PAGE_OUT)
