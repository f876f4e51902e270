"""The table of supported hosts: the page shows what the patch tables say, and the installed hosts fit them."""

import ast

import pytest
from places import ROOT

from open_clip_idplugin.command_line.missing_packages import EXTRAS
from open_clip_idplugin.doctor import installation
from open_clip_idplugin.doctor.findings import NOTE, OK, WRONG
from open_clip_idplugin.doctor.supported import HOSTS, PURPOSES, Host, support_table
from open_clip_idplugin.hosts.patches import PatchRow
from training_patches.host_rows import offered_loop

pytestmark = pytest.mark.host

BROKEN = (
    PatchRow(("open_clip.factory:get_tokenizer",), "test", "open_clip 1", parameters=("model_name",)),
    PatchRow(("open_clip.factory:gone",), "test", "open_clip 1"),
    PatchRow(("open_clip.factory:create_model",), "test", "open_clip 1", marker="no such line"),
)


def test_the_page_shows_the_table_of_the_data():
    if offered_loop().tasks:
        pytest.skip("the page shows the rows for the released open_clips")
    page = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    assert support_table() in page, f"docs/hosts.md must hold:\n{support_table()}"


def test_every_extra_that_a_module_asks_for_has_a_purpose():
    assert set(PURPOSES) == {*EXTRAS.values(), "search"}


def test_the_table_has_every_file_of_patch_rows():
    """A file that builds rows and is not in the table would be missing from the page and from the examination."""
    building = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for package in ("open_clip_idplugin", "training_patches", "webdataset_tools")
        for path in (ROOT / package).rglob("*.py")
        if any(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PatchRow"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    assert building == {
        "open_clip_idplugin.hosts.open_clip_rows",
        "open_clip_idplugin.hosts.clip_retrieval",
        "training_patches.host_rows",
        "open_clip_idplugin.retrieval.index.factory_key",
    }
    assert {place.partition(":")[0] for host in HOSTS for place in host.tables} <= building


def test_installed_hosts_fit():
    found = {finding.about: finding for finding in installation.hosts()}
    assert set(found) == {host.package for host in HOSTS}
    assert found["open_clip"].state == found["open_clip_train"].state == OK
    assert "patch rows fit" in found["open_clip"].text
    assert found["clip_retrieval"].state in (OK, NOTE)  # it cannot be installed beside open_clip 3


def test_every_row_that_does_not_fit_is_a_line(monkeypatch):
    host = Host("open_clip", "open_clip_torch", "", "the models", (f"{__name__}:BROKEN",))
    monkeypatch.setattr(installation, "HOSTS", (host,))
    found = list(installation.hosts())
    assert [finding.state for finding in found] == [WRONG, WRONG]
    assert "open_clip.factory:gone, which the installed open_clip" in found[0].text
    assert "'no such line' is gone; checked with open_clip 1" in found[1].text


def test_a_host_whose_extra_lacks_is_a_line_with_the_remedy(monkeypatch):
    monkeypatch.setattr(installation, "lacking_modules", lambda *extras: ["webdataset"] if "train" in extras else [])
    found = {finding.about: finding for finding in installation.hosts()}
    assert found["open_clip_train"].state == NOTE
    assert "webdataset not installed: pip install 'open-clip-idplugin[train]'" in found["open_clip_train"].text
