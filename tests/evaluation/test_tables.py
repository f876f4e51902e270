"""Tables: the same results as aligned text, Markdown, CSV and JSON."""

import csv
import json

from open_clip_idplugin.evaluation import tables
from open_clip_idplugin.evaluation.protocols import Results

RESULTS = Results(
    {
        "captions": {"t2i_R@1": 0.1234, "t2i_sum": 2.5},
        "conf1": {"t2i_R@1": 0.5, "t2i_sum": 3.0, "entity_R@5": 0.0625, "mAP@10": 1.0},
    },
    {"conf1": {"stratum=small": {"images": 12, "queries": 60, "t2i_R@1": 0.25}}},
)


def test_console():
    general, entity, strata = tables.to_console(tables.result_tables(RESULTS)).split("\n\n")
    assert general.splitlines() == [
        "General retrieval (percent)",
        "query     t2i R@1  t2i sum",
        "--------------------------",
        "captions     12.3    250.0",
        "conf1        50.0    300.0",
    ]
    assert entity.splitlines()[-1].split() == ["conf1", "6.2", "100.0"]
    assert "captions" not in entity
    assert strata.splitlines()[-1].split() == ["stratum=small", "12", "25.0"]


def test_markdown():
    text = tables.to_markdown(tables.result_tables(RESULTS))
    assert "## General retrieval (percent)\n\n| query | t2i R@1 | t2i sum |\n| --- | ---: | ---: |\n" in text
    assert "| conf1 | 50.0 | 300.0 |" in text


def test_files_hold_the_fractions(tmp_path):
    paths = tables.write_results(tmp_path / "new", RESULTS, {"model": "tiny", "images": 3})
    assert [path.name for path in paths] == ["results.json", "results.csv", "results.md"]
    document = json.loads(paths[0].read_text())
    assert document["metrics"] == RESULTS.metrics
    assert document["strata"]["conf1"]["stratum=small"]["queries"] == 60
    assert document["about"] == {"model": "tiny", "images": 3}
    rows = list(csv.DictReader(paths[1].open()))
    assert {"configuration": "captions", "stratum": "", "metric": "t2i_R@1", "value": "0.1234"} in rows
    assert {"configuration": "conf1", "stratum": "stratum=small", "metric": "images", "value": "12"} in rows
    assert "* model: tiny\n* images: 3\n" in paths[2].read_text()


def test_empty_tables_are_left_out():
    assert [table.title for table in tables.result_tables(Results({"names": {"mAP@10": 0.1}}))] == [
        "Entity retrieval (percent)"
    ]
