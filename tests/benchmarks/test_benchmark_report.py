"""The benchmark's report from made-up cells: goals, published numbers beside ours, strata, curves, failures, generated docs."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from benchmark_fixtures import CURVES, full_results
from training_fixtures import small_world, write_shards

from benchmarks.recipes import ablation, docs_pages, goals, pages, paper_tables, published, stratum_tables
from benchmarks.recipes import cells as cells_module
from benchmarks.recipes.cells import Bench, Cell, CellResult
from benchmarks.recipes.collecting import collect
from benchmarks.recipes.command import benchmark
from benchmarks.recipes.failure_sections import failure_sections
from benchmarks.recipes.findings import gather
from benchmarks.recipes.plots import draw_plots
from benchmarks.recipes.recipes import RECIPES
from benchmarks.recipes.report import query_matrix, write_report
from benchmarks.recipes.world import World
from open_clip_idplugin.errors import IdClipError
from webdataset_tools.marking import ALGORITHMIC, read_digital_source_type


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = World(tmp_path_factory.mktemp("report") / "world")
    write_shards(place.shards("test"), small_world(people=3, scenes=3), shards=1)
    return place


KEYS = ("100_n000000", "100_n000001", "101_n000000", "101_n000002", "100_n000000", "999_n000009")


def verdicts(findings):
    return [goal.met for goal in goals.goals(findings)]


def test_goals_are_decided_by_the_numbers():
    judged = goals.goals(gather(full_results(), {}))
    # 0.305 / 0.2; names alone and face alone have the same ratio, which is below 1.68.
    assert [goal.met for goal in judged] == [True, False, True, True, True, True, True]
    assert [judged[0].found, judged[1].found] == ["1.52 ×", "1.52 ×"]
    table = goals.goal_table(judged)
    assert [row[-1] for row in table.rows].count("**missed**") == 1
    assert goals.goal_notes(judged)[0].startswith("**Missed:** the paper's recipe: entity mAP@10")


def test_the_hybrid_must_hold_in_every_stratum():
    findings = gather(full_results({"hybrid": 0.09}), {})
    judged = {goal.sentence: goal for goal in goals.goals(findings)}
    in_strata = judged["hybrid ranking: strata in which no rival is better"]
    assert (in_strata.met, in_strata.wanted, in_strata.found) == (False, "all 5", "4")
    assert "face missed (9.0; late fusion 10.0)" in in_strata.detail
    equal = gather(full_results({"hybrid": 0.1}), {})
    assert all(goal.met for goal in goals.goals(equal) if "strata" in goal.sentence)


@pytest.mark.parametrize(("token", "met"), [(0.2, True), (0.19, False)])
def test_the_token_must_find_twice_as_much_where_no_face_is_detected(token, met):
    assert verdicts(gather(full_results({"conf1": token}), {}))[-1] is met


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert verdicts(gather(full_results(splits=("val",)), {})) == []
    paper_alone = [result for result in full_results() if result.recipe == "paper"]
    assert verdicts(gather(paper_alone, {}))[4:] == [None, None, None]
    adaptor_alone = gather([result for result in full_results() if result.recipe == "paper-adaptor"], {})
    assert (adaptor_alone.chosen, adaptor_alone.default) == (None, "paper-adaptor")


def test_published_numbers_have_the_published_ratios():
    assert published.times_names(published.GENERAL, 0, "conf1", "t2i_R@1") == pytest.approx(1.39, abs=0.005)
    assert published.times_names(published.GENERAL, 5, "conf1", "t2i_R@1") == pytest.approx(1.41, abs=0.005)
    assert published.times_names(published.ENTITY, 0, "conf1", "mAP@10") == pytest.approx(1.48, abs=0.005)
    assert published.times_names(published.ENTITY, 5, "conf4", "mAP@10") == pytest.approx(1.68, abs=0.005)
    assert published.times_names(published.ENTITY, 5, "captions", "mAP@10") is None


def test_the_paper_s_tables_show_ours_beside_the_published_numbers():
    findings = gather(full_results(), {})
    rows = {row[:2]: row[2:] for row in paper_tables.general_table("General", findings).rows}
    assert rows["5", "conf1"][:2] == ("30.5 ± 0.7", "39.2") and rows["5", "conf1"][-2:] == ("1.52", "1.41")
    assert rows["5", "conf1 best template"][-1] == "1.55"
    assert rows["none", "conf4"][1] == "-" and ("5", "hybrid") not in rows
    entity = {row[:2]: row[2:] for row in paper_tables.entity_table("Entity", findings).rows}
    assert entity["none", "conf4"][-3:] == ("3.6", "2.12", "1.71") and ("none", "captions") not in entity


def test_strata_are_ordered_and_the_best_is_bold():
    findings = gather(full_results(), {})
    table = stratum_tables.strata_table("By stratum", findings)
    assert [row[0] for row in table.rows] == [
        "face missed", "face detected", "face pixels 16-24", "face pixels 8-16", "look-alikes",
    ]  # fmt: skip
    assert table.columns[:5] == (
        "stratum",
        "images",
        "CLIP, caption",
        "CLIP, caption + name",
        "filter by face, then CLIP text",
    )
    assert table.rows[0][1] == "10" and table.rows[0][-1] == "**45.0 ± 0.0**"
    (note,) = stratum_tables.tuned_notes(findings)
    assert "hybrid: rule weighted, face weight 0.3; best template: `[ENTITY]. [CAPTION]`" in note
    assert stratum_tables.overall_table("Overall", findings).rows[-1][1] == "**70.5 ± 0.7**"


def test_every_recipe_is_shown_by_query_and_the_best_is_bold():
    summaries = gather(full_results(), {}).shown
    table = query_matrix("R@1 by query", summaries, "t2i_R@1")
    assert table.columns == ("recipe", "captions", "names", "conf1", "conf4")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["clip"] == ("**13.0**", "**20.0**", "", "")
    assert rows["paper"] == ("13.0 ± 0.0", "20.0 ± 0.0", "30.5 ± 0.7", "")
    assert rows["sharp-scenes"][2:] == ("**50.5 ± 0.7**", "**45.5 ± 0.7**")
    assert query_matrix("mAP by query", summaries, "mAP@10").columns[1:] == ("names", "conf1", "conf4")
    assert not query_matrix("of one recipe", {"paper": summaries["paper"]}, "t2i_R@1").rows


def test_a_recipe_is_set_beside_the_one_it_adds_to():
    measured = {row.recipe: row for row in gather(full_results(), {}).compared}
    assert ablation.base_of("paper", measured) == ablation.base_of("sharp-scenes", measured) == "paper-adaptor"
    assert ablation.base_of("paper-adaptor", measured) is None
    assert ablation.base_of("adaptor-long", measured) == "paper-adaptor"
    found = {step.compared.recipe: step for step in ablation.steps(gather(full_results(), {}))}
    assert {name: step.verdict for name, step in found.items()} == {
        "sharp-scenes": "helped", "paper-adaptor": "", "paper": "harmed",
    }  # fmt: skip
    notes = " ".join(ablation.ablation_notes(list(found.values()), full_results()))
    assert "**What did harm:** `paper` (0.75 × `paper-adaptor`)." in notes


def test_differences_within_the_scatter_over_seeds_are_no_gain():
    results = full_results()
    assert 0 < ablation.seed_noise(results) < 0.03
    assert ablation.seed_noise(full_results(seeds=(0,))) == ablation.NOISE_UNKNOWN
    for result in results:
        if result.recipe == "sharp-scenes":  # just above the adaptor alone
            for split in result.splits.values():
                for recalls in split["strata"]["conf1"].values():
                    recalls["t2i_R@1"] *= 0.41 / 0.5
                split["metrics"]["conf1"]["mAP@10"] *= 0.41 / 0.5
    found = {step.compared.recipe: step for step in ablation.steps(gather(results, {}))}
    assert found["sharp-scenes"].verdict == "no clear difference"


def test_plots_have_named_axes_and_are_the_same_bytes_again():
    findings = gather(full_results(), {})
    pictures = {picture.name: picture for picture in draw_plots(findings)}
    assert set(pictures) == {"recall_at_k.svg", *(f"{name}.svg" for name in CURVES)}
    text = "".join(ElementTree.fromstring(pictures["people_per_scene.svg"].content).itertext())
    for words in ("people who appear in the same scene", "R@1, percent", "hybrid, sharp-scenes", "late fusion"):
        assert words in text
    assert b"FillBetween" in pictures["recall_at_k.svg"].content  # the band over seeds
    assert "hybrid, sharp-scenes from 70 to 63" in pictures["gallery_size.svg"].alt
    assert {picture.name: picture for picture in draw_plots(findings)} == pictures
    for result in findings.results:
        for split in result.splits.values():
            del split["curves"], split["failures"]
    assert [picture.name for picture in draw_plots(gather(findings.results, {}))] == ["recall_at_k.svg"]


def test_the_page_is_self_contained_escaped_and_marks_its_pictures(world, tmp_path):
    markdown, html, document = write_report(
        tmp_path, gather(full_results(keys=KEYS), {"command": "`python -m benchmarks.recipes`"}), world
    )
    written = [markdown, html, document, *(tmp_path / "pictures").iterdir()]
    assert len(written) > 4 and {path.stat().st_mode & 0o777 for path in written} == {0o600}  # they show people
    page = html.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "@import" not in page and "prefers-color-scheme" in page
    assert "[TOK] &lt;b&gt;feeding&lt;/b&gt; a horse" in page and "right image at rank 37" in page
    assert page.count("<code>python -m benchmarks.recipes</code>") == 1
    assert set(re.findall(r'href="#([^"]+)"', page)) == set(re.findall(r'<section id="([^"]+)"', page))
    for label in ("1: other person", "2: other scene", "3: both differ", "4: the right one"):
        assert label in page
    sheet = (tmp_path / "pictures" / "failures_conf1.jpg").read_bytes()
    assert read_digital_source_type(sheet) == ALGORITHMIC
    assert "](pictures/failures_conf1.jpg)" in markdown.read_text()
    assert json.loads(document.read_text())["goals"][0]["met"] is True


def test_the_sheet_of_failures_shows_one_query_a_scene(world):
    results = full_results(keys=KEYS)
    for result in results:
        for split in result.splits.values():
            for entries in split["failures"].values():
                (worst,) = entries
                others = ((KEYS[1], "the same scene"), (KEYS[2], "another scene"))
                entries += [{**worst, "key": key, "query": query} for key, query in others]
    section, *_ = failure_sections(gather(results, {}), world)
    assert len(section.failures) == 3
    assert section.sheet.caption.endswith("1. `[TOK] <b>feeding</b> a horse`; 2. `another scene`")


def test_docs_get_results_between_their_markers_and_keep_the_rest(world, tmp_path):
    findings = gather(full_results(keys=KEYS), {"command": "`python -m benchmarks.recipes`"})
    page = tmp_path / "benchmark.md"
    page.write_text(f"# Ours\n\nBefore.\n\n{docs_pages.BEGIN}\nold\n{docs_pages.END}\n\nBehind.\n")
    written = docs_pages.write_docs(tmp_path, findings, world)
    text = page.read_text()
    assert text.startswith("# Ours\n\nBefore.\n") and text.endswith("\n\nBehind.\n") and "\nold\n" not in text
    assert "| 5 | conf1 | 30.5 ± 0.7 | 39.2 |" in text
    links = re.findall(r"\]\((benchmark/[^)]+)\)", text)
    assert len(links) == 7 and all((tmp_path / link).is_file() for link in links)
    assert sum(path.stat().st_size for path in written if path.suffix in pages.MEDIA_TYPES) < 300_000
    recipe = (tmp_path / "recipe.md").read_text()
    assert recipe.startswith("# Recipe\n") and "| sharp-scenes | 2 |" in recipe
    docs_pages.write_docs(tmp_path, findings, world)
    assert (page.read_text(), (tmp_path / "recipe.md").read_text()) == (text, recipe)


def test_docs_without_markers_are_refused_before_anything_runs(tmp_path):
    (tmp_path / "recipe.md").write_text("# Recipe\n")
    with pytest.raises(IdClipError, match=r"recipe\.md lacks the lines between which results go"):
        benchmark(str(tmp_path / "output"), docs=str(tmp_path))
    assert not (tmp_path / "output").exists()


def test_finished_cells_of_other_commands_join_the_report(world, tmp_path, monkeypatch):
    monkeypatch.setattr(cells_module, "_weights", lambda model, pretrained: {"weights": "0"})  # loads open_clip
    for split in ("train", "val"):
        write_shards(world.shards(split), small_world(people=2), shards=1)
    bench = Bench(tmp_path, world, "IdCLIP-ViT-miniature", "miniature", ("captions", "names", "conf1"))
    cells = [Cell(RECIPES["paper"], seed) for seed in (0, 1)]

    def finish(cell, bench):
        CellResult(cell.recipe.name, "why", cell.seed, (), {split: {} for split in bench.splits}).write(
            cell.result_file(bench)
        )

    finish(cells[0], bench)
    finish(cells[0], replace(bench, splits=("val",)))  # the one with more splits counts
    finish(Cell(RECIPES["masked"], 2), replace(bench, splits=("val",)))
    finish(Cell(RECIPES["clip"], 0), replace(bench, templates="all"))  # other questions
    collected = collect(bench, cells)
    assert [(result.recipe, result.seed, list(result.splits)) for result in collected.results] == [
        ("paper", 0, ["val", "test"]),
        ("masked", 2, ["val"]),
    ]
    assert collected.asked == 1
