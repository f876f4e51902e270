"""The command lines of docs/reproduce.md and docs/training.md, read by the parsers that would run them."""

import inspect
import re
import shlex

import open_clip
import pytest
from places import ROOT

import open_clip_idplugin
from open_clip_idplugin.evaluation.protocols import Settings
from training_patches import params
from training_patches.model_options import changed_config
from webdataset_tools.evaluate import evaluate
from webdataset_tools.shards import shards

pytestmark = pytest.mark.host

DOCS = ROOT / "docs"
TRAINING = "python -m training_patches"
VERBS = {"idclip evaluate": evaluate, "idclip shards": shards}


def commands(page):
    """Every command of the page's indented blocks, shell variables put in."""
    lines = [line[4:] for line in (DOCS / page).read_text().splitlines() if line.startswith("    ")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    variables = {"SAMPLES": "1000"}
    for name, value in re.findall(r'^(\w+)="([^"]*)"', text, re.MULTILINE):
        variables[name] = " ".join(value.split())
    for _ in range(2):  # a variable may hold another
        for name, value in variables.items():
            text = text.replace(f"${name}", value)
    return [line for line in text.splitlines() if line.startswith(("python -m", "idclip"))]


def training_commands():
    return [line for line in commands("reproduce.md") if line.startswith(TRAINING)]


@pytest.mark.parametrize("command", training_commands())
def test_a_training_command_is_understood_and_its_model_and_weights_are_known(command):
    from open_clip_train.params import parse_args

    args, options = params.parse_args(shlex.split(command)[3:], parse_args)
    assert args.model in open_clip_idplugin.IDENTITY_MODELS
    assert args.pretrained in open_clip.list_pretrained_tags_by_model(args.model)
    if options.model:
        assert changed_config(args.model, options.model)
    assert (options.temperature, args.batch_size, args.wd) == ("0.07", 32, 0.01)


def test_every_name_is_used_once_and_every_published_variant_is_there():
    lines = training_commands()
    names = [shlex.split(line)[shlex.split(line).index("--name") + 1] for line in lines]
    assert len(set(names)) == len(names) >= 21
    text = "".join(f"{line} " for line in lines)
    for flags in (
        "--id-visual-prompts 5", "--id-visual-prompts 50", "--id-text-prompts 5", "only_entities=0.02", "--id-lr-image 1e-6",
        "--id-caption in_place", "coco_original", "--id-entity-loss bce", "only_entities=0.1", "only_entities=1",
        "--id-lr-text 1e-6", "--id-adaptor-layers 2", "--id-adaptor-bias", "--id-visual-prompts 1 ", "--id-caption multi",
        "--id-visual-prompts 0",
    ):  # fmt: skip
        assert flags in text


def test_all_five_backbones_are_trained_and_evaluated():
    backbones = {
        ("IdCLIP-ViT-L-14-336-quickgelu", "openai"), ("IdCLIP-ViT-L-14", "laion2b_s32b_b82k"),
        ("IdCLIP-ViT-L-14", "datacomp_xl_s13b_b90k"), ("IdCLIP-ViT-L-14-CLIPA-336", "datacomp1b"),
        ("IdCLIP-ViT-H-14-CLIPA-336", "laion2b"),
    }  # fmt: skip
    found = [re.search(r"--name (\S+) --model (\S+) --pretrained (\S+)", line).groups() for line in training_commands()]
    assert {(model, weights) for _, model, weights in found} == backbones
    evaluated = [line for line in commands("reproduce.md") if line.startswith("idclip evaluate")]
    for model, weights in backbones:
        names = [name for name, *of in found if of == [model, weights]]
        rows = [
            line for line in evaluated if any(f"logs/{name}/" in line and f"--model {model} " in line for name in names)
        ]
        assert rows, (model, weights)


def test_the_other_commands_are_understood():
    lines = [line for line in commands("reproduce.md") if line.startswith("idclip")]
    assert len(lines) >= 7
    for line in lines:
        verb = " ".join(line.split()[:2])
        flags = shlex.split(line)[2:]
        given = {flag[2:].replace("-", "_"): value for flag, value in zip(flags[::2], flags[1::2])}
        inspect.signature(VERBS[verb]).bind(**given)
        if verb == "idclip evaluate":
            configurations = tuple(given.get("configurations", "conf1").split(","))
            assert Settings(configurations, templates=given.get("templates", "all"))
            assert given.get("as_reference", "all") == "all"
