"""The benchmark's engine: recipes that the training command takes, cells on disk, numbers over seeds, and one real cell."""

import json
import math
from dataclasses import replace

import pytest
from training_fixtures import small_world, write_shards

from benchmarks.recipes import running, summary
from benchmarks.recipes.cell_training import training_command
from benchmarks.recipes.cells import Bench, Cell, CellResult, cells_of, read_result
from benchmarks.recipes.command import benchmark
from benchmarks.recipes.evaluating import BEST_TEMPLATE
from benchmarks.recipes.findings import gather
from benchmarks.recipes.recipes import ADAPTOR, PAPER, PLAIN, RECIPES, Recipe, choose, words
from benchmarks.recipes.report import write_report
from benchmarks.recipes.world import World
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.rivals import CAPTION_AND_FACE, FILTER_FACES, HYBRID
from webdataset_tools.miniature.release_plan import ReleaseSize, SplitSize, plan_release

MODEL = "IdCLIP-ViT-miniature"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards of three splits; one scene of each shows look-alikes."""
    place = World(tmp_path_factory.mktemp("benchmark") / "world")
    for number, split in enumerate(("train", "val", "test")):
        samples = [
            replace(sample, record=replace(sample.record, attributes={"look_alike": sample.record.image_id == 100}))
            for sample in small_world(first_person=10 * number, people=3, scenes=3, face_dim=512)
        ]
        write_shards(place.shards(split), samples, shards=1)
    return place


@pytest.fixture
def bench(world, tmp_path):
    return Bench(tmp_path, world, MODEL, "miniature", ("captions", "names", "conf1"), steps=2)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES.values() if recipe.trained], ids=lambda r: r.name)
def test_the_training_command_takes_every_recipe(recipe, bench):
    from open_clip_train.params import parse_args as host

    from training_patches.params import parse_args

    command = training_command(Cell(recipe, 3), bench)
    assert command[:3] == ["python", "-m", "training_patches"]
    args, options = parse_args(command[3:], host)
    config = IdentityConfig().override(options.model)
    assert args.seed == 3 and args.train_num_samples == 2 * args.batch_size
    assert (options.cache_images is not None) == (args.lock_image and not config.changes_image_features)
    changes_text = config.text_prompts > 0 or config.lora_text_blocks != "none" or not args.lock_text
    assert recipe.keeps_plain_answers == (options.cache_images is not None and not changes_text)
    assert recipe.reason


def test_the_paper_s_recipe_is_the_published_one_but_for_rate_and_batch():
    line = " ".join(words(PAPER.training_flags(0)))
    for flag in ("--id-visual-prompts 5", "--id-temperature 0.07", "--id-caption fixed", "--wd 0.01", "--lock-text"):
        assert flag in line
    assert set(PAPER.flags) - set(ADAPTOR.flags) == {"--id-visual-prompts"}


@pytest.mark.parametrize("name", ["scenes", "unseen-people"])
def test_a_preset_is_the_recipe_of_its_name_but_for_rate_and_warm_up(name, bench):
    from open_clip_train.params import parse_args as host

    from training_patches.params import parse_args

    (recipe,) = choose(name)
    args, options = parse_args(["--model", bench.model, *words(recipe.training_flags(0))], host)
    preset_args, preset = parse_args(["--model", bench.model, "--id-preset", name], host)
    assert replace(preset, preset=None, lr_image=options.lr_image, lr_text=options.lr_text) == options
    for flag in ("lock_image", "lock_text", "batch_size", "wd"):
        assert getattr(preset_args, flag) == getattr(args, flag)
    for rate in ("lr_image", "lr_text"):
        if getattr(options, rate) is not None:
            assert getattr(preset, rate) / preset_args.lr == pytest.approx(getattr(options, rate) / args.lr)


def test_choosing_recipes():
    assert choose("all") == list(RECIPES.values())
    assert [recipe.name for recipe in choose("norm-fixed, paper")] == ["paper", "norm-fixed"]
    with pytest.raises(IdClipError, match=r"'papre'; choose from clip, paper"):
        choose("papre")
    with pytest.raises(IdClipError, match="no recipe is named"):
        choose("")


def test_cells_go_seed_by_seed_and_plain_clip_is_asked_once():
    labels = [cell.label for cell in cells_of([PLAIN, PAPER, ADAPTOR], (0, 1))]
    assert labels == ["clip", "paper-seed0", "paper-adaptor-seed0", "paper-seed1", "paper-adaptor-seed1"]


def test_fingerprints_tell_what_a_result_depends_on(bench, world, tmp_path):
    cell = Cell(PAPER, 0)
    trained, asked = cell.weights_file(bench), cell.result_file(bench)
    other_queries = replace(bench, templates="all")
    assert cell.weights_file(other_queries) == trained and cell.result_file(other_queries) != asked
    validation_alone = replace(bench, splits=("val",))
    assert cell.weights_file(validation_alone) == trained and cell.result_file(validation_alone) != asked
    weights = tmp_path / "other.safetensors"
    weights.write_bytes(b"other weights")
    for other in (replace(bench, pretrained=str(weights)), replace(bench, steps=3), replace(bench, precision="bf16")):
        assert cell.weights_file(other) != trained and cell.result_file(other) != asked
    assert replace(bench, pretrained=str(weights)).features != bench.features
    assert Cell(PAPER, 1).weights_file(bench).name != trained.name
    moved = World(tmp_path / "moved")
    for split in ("train", "val", "test"):
        write_shards(moved.shards(split), small_world(people=2, face_dim=512), shards=1)
    assert cell.weights_file(replace(bench, world=moved)) != trained


def test_a_recipe_that_changes_is_another_cell(bench):
    cell = Cell(PAPER, 0)
    changed = Cell(replace(PAPER, flags={"--id-visual-prompts": 6}), 0)
    renamed = Cell(replace(PAPER, reason="said otherwise"), 0)
    assert changed.result_file(bench) != cell.result_file(bench) == renamed.result_file(bench)


def result_of(recipe, seed, split_values):
    """A result with the given (look-alikes' R@1, mAP@10) by split; names find half of that."""
    splits = {}
    for split, (alike, alone) in split_values.items():
        metrics = {
            "names": {"t2i_R@1": alike / 2, "mAP@10": alone / 2},
            "conf1": {"t2i_R@1": alike, "mAP@10": alone},
        }
        splits[split] = {"metrics": metrics, "strata": {"conf1": {"look_alike=yes": {"t2i_R@1": alike, "images": 5}}}}
    return CellResult(recipe, "why", seed, ("python", "-m", "training_patches"), splits, {"training": 4.0})


RESULTS = [
    result_of("paper", 0, {"val": (0.20, 0.10), "test": (0.3, 0.1)}),
    result_of("paper", 1, {"val": (0.30, 0.10), "test": (0.3, 0.1)}),
    result_of("masked", 0, {"val": (0.50, 0.40), "test": (0.1, 0.1)}),
    result_of("masked", 1, {"val": (0.50, 0.40), "test": (0.1, 0.1)}),
    result_of("bias", 0, {"val": (0.90, 0.90)}),
]


def test_means_deviations_and_ratios():
    summaries = summary.summarise(RESULTS, "val")
    paper = summaries["paper"]["conf1"]["look_alike=yes/t2i_R@1"]
    assert (paper.mean, paper.seeds) == (0.25, 2) and paper.sd == pytest.approx(math.sqrt(0.005))
    assert summaries["bias"]["conf1"]["mAP@10"].sd is None
    rows = {row.recipe: row for row in summary.compare(summaries, "paper")}
    assert rows["masked"].look_alikes_ratio == pytest.approx(2) and rows["masked"].alone_ratio == pytest.approx(4)
    assert rows["masked"].score == pytest.approx(math.sqrt(8)) and rows["paper"].score == pytest.approx(1)
    assert summary.compare(summaries, "clip") == []
    assert summary.ratio(0.1, 0.0) == math.inf and summary.ratio(0.0, 0.0) == 1


def test_the_choice_is_made_on_validation_among_recipes_with_all_seeds():
    rows = summary.compare(summary.summarise(RESULTS, "val"), "paper")
    assert rows[0].recipe == "bias"
    assert summary.best(rows) == "masked"
    assert list(summary.summarise(RESULTS, "test")) == ["paper", "masked"]


def test_the_report_shows_both_splits_and_keeps_everything(tmp_path):
    markdown, _, document = write_report(tmp_path, gather(RESULTS, {"world": "drawn"}))
    text = markdown.read_text()
    assert "* chosen on validation: `masked`" in text
    assert "| masked | 2 | 50.0 ± 0.0 | 2.00 | 40.0 ± 0.0 | 4.00 | 2.83 |" in text
    assert "| paper | conf1 | 30.0 ± 0.0 | 2.00 |" in text.partition("## Test: general")[2]
    values = json.loads(document.read_text())
    assert values["chosen"] == "masked" and len(values["cells"]) == 5
    assert values["splits"]["val"]["paper"]["conf1"]["look_alike=yes/t2i_R@1"]["mean"] == 0.25


def test_a_damaged_result_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "cell.json"
    assert read_result(path) is None
    RESULTS[0].write(path)
    assert read_result(path) == RESULTS[0]
    path.write_text('{"recipe": "paper"')
    with pytest.raises(IdClipError, match="delete it, and the cell is run again"):
        read_result(path)


def test_a_cell_that_fails_is_named_and_the_others_go_on(bench, monkeypatch):
    broken = Recipe("broken", "a flag that nobody knows", {"--id-colour": "red"})

    def refuse(cell, bench):
        raise IdClipError("training ended with exit code 2")

    monkeypatch.setattr(running, "train_cell", refuse)
    (failure,) = running.run_cells(bench, [Cell(broken, 0), Cell(PLAIN, 0)], workers=1)
    assert failure == running.Failure("broken-seed0", "training ended with exit code 2")
    plain = read_result(Cell(PLAIN, 0).result_file(bench))
    asked = {"captions", "names", FILTER_FACES, CAPTION_AND_FACE}  # this world keeps no photos to search with
    assert set(plain.splits["val"]["metrics"]) == asked and plain.command == ()


def test_a_cell_trains_by_the_real_command_and_is_not_run_again(bench, monkeypatch, capsys):
    recipe = Recipe("small", "two steps", {"--batch-size": 8, "--warmup": 0, "--workers": 0})
    cell = Cell(recipe, 0)
    assert running.run_cells(bench, [cell], workers=1) == []
    result = read_result(cell.result_file(bench))
    for split in ("val", "test"):
        metrics, strata = result.splits[split]["metrics"], result.splits[split]["strata"]
        assert 0 < metrics["conf1"]["t2i_R@50"] <= 1 and metrics["conf4"].keys() == {
            name for name in metrics["conf1"] if name.startswith(("entity", "mAP"))
        }
        assert strata["conf1"]["look_alike=yes"]["images"] == 3
        assert {HYBRID, BEST_TEMPLATE} <= metrics.keys() and strata[HYBRID]["face=missed"]["images"] == 9
        assert result.splits[split]["best_template"]["chosen_on"] == "val"
        assert result.splits[split]["tuned"] == result.splits["val"]["tuned"]
    assert result.seconds["training"] > 0 and result.about["processor"]["training"] > 0
    assert list(bench.features.glob("*.tar")) and not list((bench.output / "runs").iterdir())

    monkeypatch.setattr(running, "train_cell", None)  # would fail if it were called
    assert running.run_cells(bench, [cell], workers=1) == []
    cell.result_file(bench).unlink()  # killed between training and evaluation
    assert running.run_cells(bench, [cell], workers=1) == []
    again = read_result(cell.result_file(bench))
    assert again.splits == result.splits and again.seconds["training"] == result.seconds["training"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"recipes": "nobody"}, "there is no recipe 'nobody'"),
        ({"seeds": "0,x"}, "--seeds is '0,x'"),
        ({"splits": "train"}, "--splits is 'train'"),
        ({"size": "huge"}, "no world of the size 'huge'"),
        ({"workers": 0}, "--workers and --steps must be at least 1"),
        ({"configurations": "conf7"}, "'conf7'"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(settings, sentence, tmp_path):
    with pytest.raises(IdClipError, match=sentence):
        benchmark(str(tmp_path / "output"), **settings)


def test_validation_has_look_alikes_as_test_has():
    size = SplitSize(100, 50)
    plan = plan_release(ReleaseSize(size, size, size), seed=0)
    alike = [scene.split for scene in plan.scenes if scene.look_alike]
    assert (alike.count("train"), alike.count("val"), alike.count("test")) == (0, 5, 5)
