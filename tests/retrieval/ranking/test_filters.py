"""Filters take their types from the column, and --where writes them."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("clip_retrieval")

from open_clip_idplugin.retrieval.index_folder.row_metadata import RowMetadata
from open_clip_idplugin.retrieval.ranking.filters import allowed_rows
from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest
from open_clip_idplugin.retrieval.search.search_options import parse_where


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters")
    (folder / "metadata").mkdir()
    columns = {
        "image_path": ["a..b.jpg", "c|d.jpg", "e.jpg", "=f.jpg"],
        "flag": [0, 1, 1, 0],
        "flag_or_missing": [0.0, 1.0, None, 1.0],
        "sure": [True, False, True, True],
        "sure_or_missing": [True, None, False, True],
        "day": ["1890-05-01", "1901-01-01", "1950-12-31", None],
        "mixed": pd.array(["1", "true", "x", None], dtype=object),
    }
    pd.DataFrame(columns).to_parquet(folder / "metadata" / "metadata_0.parquet")
    return RowMetadata(folder)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("flag=1", [1, 2]),
        ("flag=0..1", [0, 1, 2, 3]),
        ("flag=1..", [1, 2]),
        ("flag=..0", [0, 3]),
        ("flag=0|1", [0, 1, 2, 3]),
        ("flag_or_missing=1", [1, 3]),
        ("flag_or_missing=0.5..2", [1, 3]),
        ("sure=true", [0, 2, 3]),
        ("sure=False", [1]),
        ("sure_or_missing=true", [0, 3]),
        ("sure_or_missing=false", [2]),
        ("key=a..b.jpg", [0]),
        ("key==c|d.jpg", [1]),
        ("key===f.jpg", [3]),
        ("key=e.jpg|a..b.jpg", [0, 2]),
        ("day=1900-01-01..1950-12-31", [1, 2]),
        ("day=..1901-01-01", [0, 1]),
        ("mixed=1", [0]),
        ("mixed=true", [1]),
    ],
)
def test_a_condition_means_what_the_column_holds(metadata, where, rows):
    assert np.flatnonzero(allowed_rows(metadata, parse_where([where]))).tolist() == rows


@pytest.mark.parametrize("where", ["flag=true", "flag=1..many", "flag_or_missing=often"])
def test_words_are_no_numbers(metadata, where):
    with pytest.raises(BadRequest, match="holds numbers, which"):
        allowed_rows(metadata, parse_where([where]))


def test_numbers_in_json_are_compared_as_numbers(metadata):
    assert np.flatnonzero(allowed_rows(metadata, {"flag": 1})).tolist() == [1, 2]
    assert np.flatnonzero(allowed_rows(metadata, {"flag": {"min": 0, "max": 1}, "sure": True})).tolist() == [0, 2, 3]
