"""Metadata read where it lies: clip-retrieval's answers, whatever the files hold."""

import datetime
import math

import pandas as pd
import pytest

pytest.importorskip("clip_retrieval")

from open_clip_idplugin.retrieval.index_folder import row_metadata
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.index_folder.row_metadata import RowMetadata


@pytest.fixture
def folder(tmp_path):
    """Three files that do not agree about columns and types; one with a pandas index, one without rows."""
    (tmp_path / "metadata").mkdir()
    day = datetime.datetime(1843, 9, 1, tzinfo=datetime.timezone.utc)
    frames = [
        {"image_path": ["a", "b", "c"], "year": [1843, None, 1852], "sure": [True, None, False], "words": [["x"]] * 3},
        {"image_path": [], "year": []},
        {"image_path": ["d", "e"], "year": ["about 1850", "unknown"], "grade": [0.5, math.nan], "day": [day, None]},
    ]
    for number, columns in enumerate(frames):
        frame = pd.DataFrame(columns)
        if number == 0:
            frame.index = [7, 8, 9]
        frame.to_parquet(tmp_path / "metadata" / f"metadata_{number}.parquet")
    return tmp_path


def stock(folder):
    from clip_retrieval.clip_back import ParquetMetadataProvider

    return ParquetMetadataProvider(str(folder / "metadata"))


def expected(folder) -> list[dict]:
    rows = [stock(folder).get([row])[0] for row in range(5)]
    kept = (str, bool, int, float)
    return [
        {("key" if name == "image_path" else name): value for name, value in row.items() if isinstance(value, kept)}
        for row in rows
    ]


def test_rows_are_those_of_clip_retrieval(folder):
    metadata = RowMetadata(folder)
    wanted = [{name: value for name, value in row.items() if value == value} for row in expected(folder)]
    assert metadata.get(range(5)) == wanted
    assert metadata.get([4, 0, 4]) == [wanted[4], wanted[0], wanted[4]]
    assert metadata.get([3], ["key", "grade"]) == [{"key": "d", "grade": 0.5}]
    assert metadata.get([]) == []
    assert len(metadata) == 5
    assert metadata.columns == ["key", "year", "sure", "words", "grade", "day"]


def test_columns_are_those_of_clip_retrieval(folder):
    metadata, frame = RowMetadata(folder), stock(folder).metadata_df
    for name in ("year", "sure", "grade"):
        assert metadata[name].astype(object).where(metadata[name].notna(), None).tolist() == (
            frame[name].astype(object).where(frame[name].notna(), None).tolist()
        )
    assert metadata["key"].tolist() == list("abcde")
    with pytest.raises(KeyError):
        metadata["image_path"]


def test_nothing_is_held_in_memory(folder):
    import pyarrow as pa

    RowMetadata(folder)
    before = pa.total_allocated_bytes()
    metadata = RowMetadata(folder)
    assert pa.total_allocated_bytes() - before < 64
    assert metadata.get([0])[0]["key"] == "a"


def test_changed_files_are_read_anew(folder):
    assert RowMetadata(folder).get([0])[0]["year"] == 1843
    made = folder / row_metadata.FOLDER / "metadata_0.arrow"
    stamp = made.stat().st_mtime_ns
    RowMetadata(folder)
    assert made.stat().st_mtime_ns == stamp
    pd.DataFrame({"image_path": list("xyz"), "year": [1, 2, 3]}).to_parquet(folder / "metadata" / "metadata_0.parquet")
    assert RowMetadata(folder).get([0]) == [{"key": "x", "year": 1}]
    made.write_bytes(b"cut short")
    assert RowMetadata(folder).get([0]) == [{"key": "x", "year": 1}]


def test_folder_that_cannot_be_written(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(row_metadata, "atomic_path", refuse)
    metadata = RowMetadata(folder)
    assert not (folder / row_metadata.FOLDER).exists()
    assert [row["key"] for row in metadata.get(range(5))] == list("abcde")


def test_bad_metadata_is_refused(folder, tmp_path):
    (folder / "metadata" / "metadata_1.parquet").write_bytes(b"nothing")
    with pytest.raises(IndexMismatch, match="cannot be read"):
        RowMetadata(folder)
    with pytest.raises(IndexMismatch, match="holds no metadata"):
        RowMetadata(tmp_path / "metadata")
