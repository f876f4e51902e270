"""Package data: the name of shipped weights or of a vocabulary -> its path; and the model configs of the registered names."""

from pathlib import Path

from open_clip_idplugin.errors import IdClipError

WEIGHTS = Path(__file__).parent / "weights"
MODEL_CONFIGS = Path(__file__).parent / "model_configs"

# Name -> the command that makes it again, from nothing, in a source checkout.
MADE_BY = {
    "miniature_clip.safetensors": "python -m webdataset_tools.miniature.clip_pretraining",
    "miniature_bpe.txt.gz": "python -m webdataset_tools.miniature.clip_pretraining",
    "miniature_faces": "python -m webdataset_tools.miniature.train_faces",
}


def shipped(name: str) -> Path:
    """The path of a file or folder of package data; raises IdClipError, with the command that makes it, if it is missing."""
    path = WEIGHTS / name
    if path.exists():
        return path
    remedy = f"make it with `{MADE_BY[name]}`" if name in MADE_BY else f"the package ships {', '.join(MADE_BY)}"
    raise IdClipError(f"{name} is not among the weights of this installation ({WEIGHTS}); {remedy}.")
