"""Who may import what, read from the source of all three packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("open_clip_idplugin", "training_patches", "webdataset_tools")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Module -> folders (or files) that alone may import it.
ONLY_IN = {
    **dict.fromkeys(
        ("clip_retrieval", "faiss", "flask", "flask_restful", "autofaiss", "all_clip"),
        ("open_clip_idplugin/retrieval",),
    ),
    "webdataset": ("webdataset_tools", "training_patches"),
    "wids": ("webdataset_tools", "training_patches"),
    "open_clip_train": ("training_patches",),
    **dict.fromkeys(
        ("insightface", "onnxruntime"),
        ("open_clip_idplugin/faces", "webdataset_tools/miniature", "webdataset_tools/faceswap"),
    ),
    "dlib": ("open_clip_idplugin/faces",),
    "onnx": ("open_clip_idplugin/faces", "webdataset_tools/miniature"),
    "training_patches": ("training_patches",),
    "webdataset_tools": ("webdataset_tools", "training_patches"),
}
HEAVY = {"torch", "open_clip", "timm", "numpy", "cv2", "PIL", "sqlite3", "insightface", "webdataset", "open_clip_train"}
# Modules that are imported before a verb is chosen.
LIGHT = ("open_clip_idplugin/__init__.py", "open_clip_idplugin/cli.py", "open_clip_idplugin/errors.py")


class _Runtime(ast.NodeTransformer):
    """Leaves out what only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)


def imported(path: Path, top_level: bool = False) -> Iterator[str]:
    """Full names of the modules that a file imports, `importlib.import_module("...")` included."""
    tree = _Runtime().visit(ast.parse(path.read_text(encoding="utf-8")))
    nodes = tree.body if top_level else ast.walk(tree)
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).strip(".")
            yield base
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


def test_every_package_is_read():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)


IMPORTS = {path.relative_to(ROOT).as_posix(): set(imported(path)) for path in FILES}


@pytest.mark.parametrize("module", ONLY_IN)
def test_only_where_it_belongs(module):
    strays = [
        file
        for file, names in IMPORTS.items()
        if any(name.partition(".")[0] == module for name in names) and not file.startswith(ONLY_IN[module])
    ]
    assert not strays


@pytest.mark.parametrize("file", LIGHT)
def test_light_modules_import_nothing_heavy(file):
    assert not {name.partition(".")[0] for name in imported(ROOT / file, top_level=True)} & HEAVY


def test_the_reader_of_imports_reads_all_kinds(tmp_path, monkeypatch):
    monkeypatch.setattr("test_import_rules.ROOT", tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    file = tmp_path / "a" / "b" / "c.py"
    file.write_text(
        "import one.two\nfrom three import four\nfrom . import five\nfrom ..six import seven\n"
        "if TYPE_CHECKING:\n    import eleven\n"
        "def f():\n    import eight\n    import importlib\n    importlib.import_module('nine.ten')\n"
    )
    assert set(imported(file)) == {"one.two", "three", "a.b", "a.six", "eight", "importlib", "nine.ten"}
    assert set(imported(file, top_level=True)) == {"one.two", "three", "a.b", "a.six"}
