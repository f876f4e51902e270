"""Columns of the user never stand in the place of the product's own fields."""

import pandas as pd
import pytest

pytest.importorskip("clip_retrieval")

from open_clip_idplugin.retrieval.index.writer import PartitionWriter
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from open_clip_idplugin.retrieval.index_folder.metadata_columns import RESULT_FIELDS, read_keys, renamed, shown_names
from open_clip_idplugin.retrieval.index_folder.row_metadata import RowMetadata


def index_of(folder, **columns):
    (folder / "metadata").mkdir(parents=True)
    pd.DataFrame(columns).to_parquet(folder / "metadata" / "metadata_0.parquet")
    return folder


@pytest.mark.parametrize("name", sorted(RESULT_FIELDS - {"image_path"}))
def test_a_column_with_a_field_s_name_is_kept_under_another(tmp_path, name):
    index_of(tmp_path, image_path=["tar-key"], **{name: ["the user's"]})
    metadata = RowMetadata(tmp_path)
    assert metadata.get([0]) == [{"key": "tar-key", f"metadata.{name}": "the user's"}]
    assert metadata[f"metadata.{name}"].tolist() == ["the user's"] and metadata["key"].tolist() == ["tar-key"]
    assert read_keys(tmp_path) == ["tar-key"]
    assert renamed(["image_path", name]) == {name: f"metadata.{name}"}


def test_new_names_never_meet():
    names = ["image_path", "score", "metadata.score", "key", "year"]
    assert shown_names(names) == {
        "image_path": "key", "score": "metadata.metadata.score", "metadata.score": "metadata.score",
        "key": "metadata.key", "year": "year",
    }  # fmt: skip
    assert len(set(shown_names(names).values())) == len(names)


def test_where_there_is_no_image_path_the_key_is_the_key(tmp_path):
    assert read_keys(index_of(tmp_path / "a", key=["one", "two"])) == ["one", "two"]
    with pytest.raises(IndexMismatch, match="names no pictures"):
        read_keys(index_of(tmp_path / "b", url=["x"]))


def test_a_record_s_caption_and_path_are_not_lost(tmp_path):
    writer = PartitionWriter(tmp_path, 0, None)
    record = '{"caption": "of the record", "image_path": "album/x.jpg", "year": 1850}'
    batch = {"image_filename": ["k"], "image_embs": pd.array([0.0]).to_numpy()[None], "text_embs": None}
    writer({**batch, "text": ["of the sample"], "metadata": [record]})
    writer.flush()
    assert RowMetadata(tmp_path).get([0]) == [
        {"key": "k", "caption": "of the sample", "metadata.caption": "of the record", "year": 1850}
        | {"metadata.image_path": "album/x.jpg"}
    ]
