"""Tables as spreadsheets write them: every reader takes commas, semicolons and tabs, and a byte order mark."""

import ast
from pathlib import Path

import pytest
from places import ROOT

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery.group_files import _read_csv
from open_clip_idplugin.storage.csv_dialect import delimiter_of
from open_clip_idplugin.storage.identity_names import IDENTITY_FILE, read_identity_names
from webdataset_tools.faceswap.identities import _read_genders, read_attribute_table


def write(path: Path, delimiter: str, *rows: tuple[str, ...]) -> Path:
    text = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n"
    path.write_text("\ufeff" + text, encoding="utf-8")
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_every_table(tmp_path, delimiter):
    meta = write(
        tmp_path / IDENTITY_FILE,
        delimiter,
        ("Class_ID", "Name", "Gender"),
        ("n000001", '"14th_Dalai_Lama"', "m"),
        ("n000002", f'"Ada{delimiter} Countess"', "f"),
        ("n000003", f"Doe{delimiter} Jane", "f"),  # a name with the delimiter, and no quotes
    )
    names = read_identity_names(meta)
    comma = f"{delimiter} ".replace("\t ", " ")
    assert names == {"n000001": "14th Dalai Lama", "n000002": f"Ada{comma}Countess", "n000003": f"Doe{comma}Jane"}
    genders = {key: values["gender"] for key, values in _read_genders(meta).items()}
    assert list(genders) == ["n000001", "n000002", "n000003"] and genders["n000001"] != genders["n000003"]
    rows = [("identity_id", "Hair", "Age"), ("n000001", " brown", "old"), ("n000002", "", "young")]
    table = read_attribute_table(write(tmp_path / "attributes.csv", delimiter, *rows))
    assert table == {"n000001": {"hair": "brown", "age": "old"}, "n000002": {"age": "young"}}
    groups = write(tmp_path / "groups.csv", delimiter, ("Group", "Name"), ("1", "Ada"))
    assert _read_csv(groups) == [{"group": "1", "name": "Ada"}]


def test_what_is_no_table_is_refused_by_its_columns(tmp_path):
    meta = write(tmp_path / IDENTITY_FILE, ";", ("id", "name"))
    with pytest.raises(IdClipError, match=r"starts with \['id', 'name'\]"):
        read_identity_names(meta)
    with pytest.raises(IdClipError, match=r"has \['shape', 'colour'\]"):
        read_attribute_table(write(tmp_path / "attributes.csv", ";", ("shape", "colour")))
    assert delimiter_of('"a;b;c",d') == "," and delimiter_of("") == ","


def test_no_reader_of_a_file_assumes_commas():
    """Tables with a header are read in the dialect they have; what splits a flag's text at commas names no file."""
    found = set()
    for package in ("open_clip_idplugin", "webdataset_tools", "training_patches"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("csv.reader", "csv.DictReader"):
                    told = {key.arg for key in node.keywords}
                    if "delimiter" not in told and not isinstance(node.args[0], ast.List):
                        found.add(str(path.relative_to(ROOT)))
    assert not found
