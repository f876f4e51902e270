"""Who may import what, read from the source of all three packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("open_clip_idplugin", "training_patches", "webdataset_tools", "benchmarks")
FILES = sorted(path for package in (*PACKAGES[:3], "benchmarks/recipes") for path in (ROOT / package).rglob("*.py"))

# Room -> rooms whose modules it may import; rooms are named as in `room_of`. Nothing imports upward in this table.
WORDS = ("errors", "model", "assets")
BELOW_FACES = (*WORDS, "command_line", "storage", "model_store", "pictures")
BELOW_QUERIES = (*BELOW_FACES, "hosts", "faces", "checkpoints")
BELOW_RETRIEVAL = (*BELOW_QUERIES, "queries", "gallery")
SERVICE = ("retrieval.index", "retrieval.ranking", "retrieval.service")
INDEX = ("retrieval.index_folder", "retrieval.face_index")
DATA = (*BELOW_QUERIES, "queries", "evaluation")
MAY_IMPORT = {
    "errors": (),
    "assets": ("errors",),
    "model": ("errors", "assets"),
    "command_line": WORDS,
    "storage": WORDS,
    "model_store": (*WORDS, "storage"),
    "pictures": (*WORDS, "storage"),
    "hosts": (*WORDS, "storage"),
    "faces": BELOW_FACES,
    "checkpoints": (*BELOW_FACES, "hosts", "faces"),
    "queries": BELOW_QUERIES,
    "gallery": (*BELOW_QUERIES, "queries"),
    "evaluation": (*BELOW_QUERIES, "queries"),
    "retrieval.index_folder": (*WORDS, "storage", "pictures"),
    "retrieval.face_index": (*BELOW_FACES, "faces", "queries", "retrieval.index_folder"),
    "doctor": (*BELOW_RETRIEVAL, *INDEX),
    "retrieval.index": (*BELOW_RETRIEVAL, *INDEX),
    "retrieval.ranking": (*BELOW_RETRIEVAL, *INDEX),
    "retrieval.service": (*BELOW_RETRIEVAL, *INDEX, "retrieval.index", "retrieval.ranking"),
    "retrieval": (*BELOW_RETRIEVAL, *INDEX, *SERVICE),
    "retrieval.search": (*BELOW_RETRIEVAL, *INDEX, *SERVICE, "retrieval"),
    "retrieval.open": (*BELOW_RETRIEVAL, *INDEX, *SERVICE, "retrieval"),
    "webdataset_tools": DATA,
    "webdataset_tools.faceswap": (*DATA, "webdataset_tools"),
    "webdataset_tools.collection_faces": (*DATA, "webdataset_tools"),
    "webdataset_tools.miniature": (
        *(*BELOW_RETRIEVAL, *DATA, *INDEX, *SERVICE),
        *("webdataset_tools", "webdataset_tools.faceswap", "webdataset_tools.collection_faces"),
    ),
    "benchmarks.recipes": (*DATA, "webdataset_tools", "webdataset_tools.miniature"),
    "training_patches": (*DATA, "open_clip_idplugin", "webdataset_tools", "retrieval.index_folder"),
}
# Module -> folders (or files) that alone may import it.
ONLY_IN = {
    **dict.fromkeys(("faiss", "pydantic"), ("open_clip_idplugin/retrieval/",)),
    **dict.fromkeys(  # a search in one's own process needs none of them
        ("clip_retrieval", "flask", "flask_restful", "autofaiss", "all_clip", "itsdangerous", "cachetools"),
        (
            *("open_clip_idplugin/retrieval/service/", "open_clip_idplugin/retrieval/index/"),
            *("open_clip_idplugin/retrieval/serve.py", "open_clip_idplugin/retrieval/search/command.py"),
        ),
    ),
    "webdataset": ("webdataset_tools", "training_patches"),
    "wids": ("webdataset_tools", "training_patches"),
    "open_clip_train": ("training_patches",),
    **dict.fromkeys(
        ("insightface", "onnxruntime"),
        ("open_clip_idplugin/faces", "webdataset_tools/miniature", "webdataset_tools/faceswap"),
    ),
    "dlib": ("open_clip_idplugin/faces",),
    "fcntl": ("open_clip_idplugin/storage/output_folder.py",),  # who may write where is one rule
    "onnx": ("open_clip_idplugin/faces", "webdataset_tools/miniature"),
    "training_patches": ("training_patches",),
    "webdataset_tools": ("webdataset_tools", "training_patches", "benchmarks"),
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


def room_of(name: str) -> str:
    """The room of a module: `open_clip_idplugin.retrieval.index.build` -> "retrieval.index"."""
    package, *parts = name.split(".")
    folders = []
    for depth, part in enumerate(parts[:2], start=1):
        place = ROOT / package / Path(*parts[:depth])
        if place.is_dir() and not place.with_suffix(".py").exists():
            folders.append(part)
    if package != "open_clip_idplugin":
        return ".".join([package, *folders])
    if not parts:
        return package
    if folders:
        return ".".join(folders)
    return "errors" if parts == ["errors"] else "model"


def modules_imported(path: Path) -> set[str]:
    """Modules of these packages that a file imports, at the top or anywhere else."""
    found = set()
    for node in ast.walk(_Runtime().visit(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                place = ROOT / f"{node.module}.{alias.name}".replace(".", "/")
                is_module = place.is_dir() or place.with_suffix(".py").exists()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def module_of(path: Path) -> str:
    """The dotted name of a file; of a room's `__init__`, the room's."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): modules_imported(path) for path in FILES}
# The console script's table of verbs and the package's own names are on top of everything.
TOPS = ("open_clip_idplugin", "open_clip_idplugin.cli")


@pytest.mark.parametrize("room", sorted({room_of(module) for module in MODULES} - {"open_clip_idplugin"}))
def test_rooms_import_what_lies_below_them(room):
    strays = {
        f"{module} -> {other}"
        for module, others in MODULES.items()
        if room_of(module) == room and module not in TOPS
        for other in others
        if room_of(other) not in (room, *MAY_IMPORT[room])
    }
    assert not strays


def test_no_circle_of_rooms():
    done: set[str] = set()

    def visit(room: str, above: tuple[str, ...]) -> None:
        assert room not in above, f"a circle: {' -> '.join((*above, room))}"
        if room not in done:
            for other in MAY_IMPORT.get(room, ()):
                visit(other, (*above, room))
            done.add(room)

    for room in MAY_IMPORT:
        visit(room, ())


def test_no_circle_of_modules():
    """Imports at the top of modules; those inside functions are there for what they cost, not to break circles."""
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        if module not in done:
            for other in MODULES.get(module, ()):
                if room_of(other) != other.removeprefix("open_clip_idplugin."):  # a room's own names
                    visit(other, (*above, module))
            done.add(module)

    for module in MODULES:
        if module not in TOPS:
            visit(module, ())


def test_what_the_import_of_open_clip_runs_imports_no_module_that_imports_it():
    """`import open_clip_idplugin.lora` imports open_clip, which registers our models while `lora` is not whole yet."""
    reached, left = (
        set(),
        ["hosts.registration", "hosts.open_clip_rows", "tokenizer", "storage.weight_files", "miniature_tower"],
    )
    left = [f"open_clip_idplugin.{name}" for name in left]
    while left:
        module = left.pop()
        if module not in reached and module in MODULES:
            reached.add(module)
            path = ROOT / f"{module}.py".replace(".", "/", module.count("."))
            path = path if path.exists() else path.with_suffix("") / "__init__.py"
            names = set(imported(path, top_level=True))
            assert "open_clip" not in {name.split(".")[0] for name in names}, module
            left += names
    assert "open_clip_idplugin.config" in reached and "open_clip_idplugin.model" not in reached


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
