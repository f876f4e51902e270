"""Optional dependencies: a module that cannot be imported -> the extra that brings it, in one sentence."""

import importlib.util
from collections.abc import Mapping

from open_clip_idplugin.errors import IdClipError

# A module that an extra brings, itself or as a need of its packages -> the extra.
EXTRAS: Mapping[str, str] = {
    "open_clip_train": "train",
    "webdataset": "train",
    "braceexpand": "train",
    "tensorboard": "train",
    "insightface": "faces",
    "onnx": "faces",
    "onnxruntime": "faces",
    "cv2": "faces",
    "skimage": "faces",
    "sklearn": "faces",
    "dlib": "dlib",
    "clip_retrieval": "serve",
    "all_clip": "serve",
    "autofaiss": "serve",
    "faiss": "serve",
    "flask": "serve",
    "flask_cors": "serve",
    "werkzeug": "serve",
    "waitress": "serve",
    "itsdangerous": "serve",
    "cachetools": "serve",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "pydantic_core": "serve",
    "typing_extensions": "serve",
    "pyarrow": "serve",
    "pandas": "serve",
    "scipy": "serve",
    "requests": "serve",
    "jinja2": "serve",
    "markupsafe": "serve",
    "pillow_heif": "heic",
    "pyspark": "spark",
    "py4j": "spark",
    "matplotlib": "dev",
}
# What `serve` brings and the smaller extra `search` does too: an index folder is searched without clip-retrieval.
SEARCH = ("faiss", "pydantic", "pydantic_core", "typing_extensions", "pyarrow", "pandas", "scipy", "requests")
_OWN = ("open_clip_idplugin", "webdataset_tools", "training_patches")


def install_command(*extras: str) -> str:
    """`pip install 'open-clip-idplugin[...]'`."""
    return f"pip install 'open-clip-idplugin[{','.join(extras)}]'"


def modules_of(extra: str) -> list[str]:
    """The modules that an extra brings, as far as this package asks for them."""
    if extra == "search":
        return list(SEARCH)
    return [module for module, brought_by in EXTRAS.items() if brought_by == extra]


def missing_sentence(error: ImportError, extra: str | None = None) -> str | None:
    """What to install for an import that failed; None where a module of this project failed, which is a defect.

    extra: that suffices for what was called, where it brings the module.
    """
    module = (error.name or "").partition(".")[0]
    if not module or module in _OWN:
        return None
    brought_by = extra if extra is not None and module in modules_of(extra) else EXTRAS.get(module)
    remedy = install_command(brought_by) if brought_by is not None else f"pip install {module}"
    if isinstance(error, ModuleNotFoundError):
        return f"the package '{error.name}' is needed and not installed: {remedy}"
    return f"the package '{module}' cannot be imported ({error}): {remedy}"


def require_extras(*extras: str) -> None:
    """Raise IdClipError naming everything that lacks of `extras`, before any work."""
    lacking = lacking_modules(*extras)
    if lacking:
        remedy = install_command(*dict.fromkeys(EXTRAS[module] for module in lacking))
        raise IdClipError(f"the packages {', '.join(lacking)} are needed and not installed: {remedy}")


def lacking_modules(*extras: str) -> list[str]:
    """The modules of `extras` that are not installed; none of them is imported."""
    return [module for extra in extras for module in modules_of(extra) if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
