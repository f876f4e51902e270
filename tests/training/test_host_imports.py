"""An open_clip or webdataset that has moved on is refused in a sentence, before a module imports names that are gone."""

import ast
from unittest.mock import MagicMock

import open_clip_train.data
import pytest
from places import ROOT

from open_clip_idplugin.hosts import patches as host_patches
from training_patches.__main__ import main
from training_patches.host_rows import IMPORTED, Loop, rows

pytestmark = pytest.mark.host

PACKAGE = ROOT / "training_patches"


def imported_names() -> set[str]:
    """What the modules import at their top from the hosts."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
                "open_clip", "open_clip_train", "webdataset",
            ):  # fmt: skip
                found |= {f"{node.module}:{alias.name}" for alias in node.names}
    return found


def test_every_name_that_is_imported_is_verified_first():
    assert len(imported_names()) > 5
    verified = {target for row in IMPORTED for target in row.targets}
    task = {target.partition(".prepare")[0].partition(".training")[0] for row in task_rows() for target in row.targets}
    assert imported_names() <= verified | task  # the modules for tasks are imported where a host offers those


def task_rows():
    return rows(MagicMock(loop=Loop("open_clip_train.main", "open_clip_train.train", tasks=True, batch="")))


def test_the_installed_hosts_are_supported():
    host_patches.verify(IMPORTED)


def test_an_unsupported_host_is_one_sentence(monkeypatch, capsys):
    monkeypatch.delattr(open_clip_train.data, "SharedEpoch")
    assert main(["--model", "IdCLIP-ViT-miniature", "--train-data", "x.tar"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "python -m training_patches: the plugin needs open_clip_train.data:SharedEpoch, which the installed"
    )
