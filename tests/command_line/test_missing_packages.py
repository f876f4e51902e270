"""Every package that this project imports and does not always bring is named with its extra."""

import ast
import sys

import pytest
from places import ROOT

from open_clip_idplugin.command_line.missing_packages import EXTRAS, missing_sentence, require_extras
from open_clip_idplugin.errors import IdClipError

OWN = ("open_clip_idplugin", "webdataset_tools", "training_patches")
# Modules that come with the dependencies of pyproject.toml, under other names than their packages.
ALWAYS = {
    "torch", "torchvision", "open_clip", "timm", "numpy", "orjson", "PIL", "simplejpeg", "tqdm", "upath", "fsspec", "wrapt",
    "safetensors", "huggingface_hub", "packaging",
}  # fmt: skip


def imported_modules() -> set[str]:
    names = set()
    for path in (path for package in OWN for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - set(OWN)


def test_every_import_is_always_there_or_has_an_extra():
    assert imported_modules() - ALWAYS - set(EXTRAS) == set()


def test_every_extra_of_the_table_is_one_of_the_package():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(extras)


def test_a_missing_import_names_what_to_install():
    error = ModuleNotFoundError("No module named 'faiss.contrib'", name="faiss.contrib")
    assert missing_sentence(error) == (
        "the package 'faiss.contrib' is needed and not installed: pip install 'open-clip-idplugin[serve]'"
    )
    assert missing_sentence(ModuleNotFoundError("No", name="tiktoken")).endswith("pip install tiktoken")
    broken = ImportError("libGL.so.1: cannot open shared object file", name="cv2")
    assert "cannot be imported (libGL.so.1" in missing_sentence(broken)


def test_a_missing_module_of_our_own_is_a_defect():
    assert missing_sentence(ModuleNotFoundError("No", name="open_clip_idplugin.gone")) is None
    assert missing_sentence(ImportError("cannot import name 'x'", name="webdataset_tools.shards")) is None


def test_everything_that_lacks_is_named_at_once(monkeypatch):
    for module in ("webdataset", "cv2"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(IdClipError) as caught:
        require_extras("train", "faces", "serve")
    assert str(caught.value) == (
        "the packages webdataset, cv2 are needed and not installed: pip install 'open-clip-idplugin[train,faces]'"
    )
