"""`idclip export`: folders that open_clip and `load_model` build the trained model from, delta files, hubs, refusals."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from host_abilities import needs_host_push

from open_clip_idplugin import cli
from open_clip_idplugin.assets import shipped
from open_clip_idplugin.checkpoints.delta_files import read_delta, weights_digest
from open_clip_idplugin.checkpoints.export import export_folder
from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.checkpoints.loading import load_model, read_weights
from open_clip_idplugin.checkpoints.model_folders import CARD, CONFIG, WEIGHTS, known_to_open_clip, read_folder
from open_clip_idplugin.checkpoints.training_facts import TrainingFacts, require_face_model, write_facts
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel

pytestmark = pytest.mark.host

TINY, MINIATURE = "IdCLIP-ViT-tiny", "IdCLIP-ViT-miniature"
SETTINGS = {"visual_prompts": 2, "text_prompts": 3, "tokens_per_identity": 2, "lora_text_blocks": "1", "lora_rank": 2}
FACE_MODEL = "insightface:buffalo_l/w600k_r50-123456789abc"
SIZE = {TINY: 32, MINIATURE: 96}


@pytest.fixture(scope="module")
def trained(tiny_identity_models, plain_weights, tmp_path_factory):
    """A function: model name -> (trained model, its checkpoint, the base it names), facts beside the checkpoint."""
    import open_clip

    made = {}

    def make(name):
        if name in made:
            return made[name]
        folder = tmp_path_factory.mktemp(name)
        base = "miniature" if name == MINIATURE else str(plain_weights(name)[1])
        torch.manual_seed(0)
        model = open_clip.create_model(name, pretrained=base, identity_cfg=SETTINGS).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "adaptor" in key or "prompts" in key or ".lora." in key:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        torch.save(
            {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "e.pt"
        )
        recipe = {"--lr": 5e-5, "--lock-image": True, "--id-caption": "a|b"}
        write_facts(folder, TrainingFacts(name, base, FACE_MODEL, recipe))
        made[name] = model, folder / "e.pt", base
        return made[name]

    return make


@pytest.fixture(scope="module")
def folder_of(trained, tmp_path_factory):
    """A function: model name -> a folder exported by the verb."""
    made = {}

    def make(name):
        if name not in made:
            _, checkpoint, base = trained(name)
            made[name] = tmp_path_factory.mktemp("out") / f"{name}-exported"
            flags = ["--model", name, "--checkpoint", str(checkpoint), "--base", base, "--output", str(made[name])]
            assert cli.run(cli.VERBS, ["export", *flags], "idclip") == 0
        return made[name]

    return make


@torch.no_grad()
def same(model, other, tokenizer, faces, name):
    """Both give the same features, for a text with a face too."""
    images = torch.randn(2, 3, SIZE[name], SIZE[name], generator=torch.Generator().manual_seed(1))
    text = tokenizer(["[TOK] runs", "a dog"], faces=[faces[0], None])
    pairs = zip(model.eval()(images, text)[:2], other.eval()(images, text)[:2], strict=True)
    assert other.identity_cfg == model.identity_cfg == tokenizer.identity_cfg
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", [TINY, MINIATURE])
def test_a_folder_loads_with_load_model(trained, folder_of, faces, name):
    loaded = load_model(f"local-dir:{folder_of(name)}")
    assert same(trained(name)[0], loaded.model, loaded.tokenizer, faces, name)
    assert (
        loaded.face_model == FACE_MODEL and loaded.name == f"local-dir:{folder_of(name)}" == loaded.tokenizer.model_name
    )
    reference = load_model(name, str(trained(name)[1]))
    assert repr(loaded.preprocess) == repr(reference.preprocess) and reference.face_model == FACE_MODEL
    assert fingerprint_image_tower(loaded.model) == fingerprint_image_tower(reference.model)  # an index serves both
    assert load_model(f"local-dir:{folder_of(name)}", precision="pure_bf16").model.visual is not None


@pytest.mark.parametrize("name", [TINY, MINIATURE])
def test_open_clip_3_loads_a_folder_by_itself(trained, folder_of, faces, name, tmp_path):
    import open_clip

    if not hasattr(open_clip.factory, "LOCAL_DIR_PREFIX"):
        pytest.skip("open_clip 2 has no local-dir:")
    folder = tmp_path / "elsewhere"
    shutil.copytree(folder_of(name), folder)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert same(trained(name)[0], model, tokenizer, faces, name)
    expected = repr(load_model(name, str(trained(name)[1])).preprocess)
    assert repr(preprocess).translate(str.maketrans("[]", "()")) == expected.translate(str.maketrans("[]", "()"))


def test_a_folder_is_whole_public_and_describes_itself(trained, folder_of):
    folder = folder_of(MINIATURE)
    assert sorted(path.name for path in folder.iterdir()) == [
        CARD, "miniature_bpe.txt.gz", CONFIG, WEIGHTS,
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    card = (folder / CARD).read_text()
    digest = weights_digest(read_weights(shipped("miniature_clip.safetensors")))
    for words in (f"# {folder.name}", "| base weights | `miniature` |", digest, f"`{FACE_MODEL}`", "`--lr` | 5e-05",
                  "`--id-caption` | a\\|b", "| `visual_prompts` | 2 |", "its own: the image tower", "## Intended use and limits",
                  "## Licence"):  # fmt: skip
        assert words in card, words
    tiny = folder_of(TINY)
    assert str(Path(trained(TINY)[2]).parent) not in (tiny / CARD).read_text() + (tiny / CONFIG).read_text()


def test_a_vocabulary_and_tokenizer_of_the_folder_come_before_the_packages(folder_of, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(folder_of(MINIATURE), folder)
    (folder / "miniature_bpe.txt.gz").rename(folder / "own_bpe.txt.gz")
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["bpe_path"] = "own_bpe.txt.gz"
    (folder / CONFIG).write_text(json.dumps(config))
    import open_clip

    reference = open_clip.get_tokenizer(MINIATURE)(["a man and a dog"])
    assert torch.equal(load_model(f"local-dir:{folder}").tokenizer(["a man and a dog"]), reference)
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "somebody/elsewhere"
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    with known_to_open_clip(read_folder(folder)) as name:
        assert open_clip.get_model_config(name)["text_cfg"]["hf_tokenizer_name"] == str(folder)
    assert name not in open_clip.factory._MODEL_CONFIGS


class FakeHub:
    """Repositories as folders of a disk, behind the functions of huggingface_hub that open_clip calls."""

    def __init__(self, root, monkeypatch):
        needs_host_push()
        import open_clip.pretrained
        from huggingface_hub.utils import EntryNotFoundError

        push = importlib.import_module("open_clip.push_to_hf_hub")  # the package has a function of that name
        self.root, self.missing = root, EntryNotFoundError
        for name in ("create_repo", "list_repo_files", "get_hf_file_metadata", "upload_folder"):
            monkeypatch.setattr(push, name, getattr(self, name))
        monkeypatch.setattr(push, "HFTokenizer", _NoTokenizer)  # CLIP's own is fetched from the hub
        monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", self.hf_hub_download)

    def create_repo(self, repo_id, **_):
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def list_repo_files(self, repo_id):
        return [path.name for path in (self.root / repo_id).iterdir()]

    def get_hf_file_metadata(self, url):
        raise self.missing(f"no {url}", response=_Response())

    def upload_folder(self, repo_id, folder_path, **_):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return repo_id

    def hf_hub_download(self, repo_id, filename, **_):
        path = self.root / repo_id / filename
        if not path.is_file():
            raise self.missing(f"no {path}", response=_Response())
        return str(path)


class _Response:
    headers, request, status_code = {}, None, 404


class _NoTokenizer:
    def __init__(self, *_args, **_kwargs):
        pass

    def save_pretrained(self, folder):
        pass


@pytest.mark.parametrize("name", [TINY, MINIATURE])
def test_a_hub_takes_what_open_clip_pushes_and_gives_it_back(trained, faces, tmp_path, monkeypatch, name):
    import open_clip
    from open_clip.push_to_hf_hub import push_to_hf_hub

    hub, model = FakeHub(tmp_path, monkeypatch), trained(name)[0]
    tokenizer = open_clip.get_tokenizer(name)
    config = open_clip.get_model_config(name) | {"identity_cfg": model.identity_cfg.to_dict()}
    if name == MINIATURE:  # a vocabulary that no package ships
        config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": "of_this_repository.txt.gz"}
        (tmp_path / "me" / "model").mkdir(parents=True)
        shutil.copy(shipped("miniature_bpe.txt.gz"), tmp_path / "me" / "model" / "of_this_repository.txt.gz")
    assert push_to_hf_hub(model, tokenizer, config, "me/model", safe_serialization=True) == "me/model"
    assert {CONFIG, CARD, WEIGHTS} <= set(hub.list_repo_files("me/model"))
    again, _, _ = open_clip.create_model_and_transforms("hf-hub:me/model")
    assert same(model, again, open_clip.get_tokenizer("hf-hub:me/model"), faces, name)


def test_an_exported_folder_is_a_hub_repository_as_it_is(trained, folder_of, faces, tmp_path, monkeypatch):
    import open_clip

    hub = FakeHub(tmp_path, monkeypatch)
    hub.upload_folder("me/exported", folder_of(MINIATURE))
    model, _, _ = open_clip.create_model_and_transforms("hf-hub:me/exported")
    assert same(trained(MINIATURE)[0], model, open_clip.get_tokenizer("hf-hub:me/exported"), faces, MINIATURE)


def test_the_small_file_takes_base_and_face_model_from_the_training(trained, tmp_path, capsys):
    model, checkpoint, base = trained(TINY)
    output = tmp_path / "small.safetensors"
    assert (
        cli.run(cli.VERBS, ["export", "--model", TINY, "--checkpoint", str(checkpoint), "--output", str(output)], "x")
        == 0
    )
    assert "to be put on" in capsys.readouterr().out
    delta = read_delta(output)
    assert delta.face_model == FACE_MODEL and delta.base == Path(base).name
    loaded = load_model(TINY, f"{base}+{output}")
    assert loaded.face_model == FACE_MODEL and loaded.model.identity_cfg == model.identity_cfg
    card = (tmp_path / "small.md").read_text()
    for words in ("license: other", "(`idclip export --licence`)", f"{Path(base).name}+small.safetensors", delta.base_digest,
                  FACE_MODEL, "| `visual_prompts` | 2 |", "| `--id-caption` | a\\|b |"):  # fmt: skip
        assert words in card
    assert str(Path(base).parent) not in card and "local-dir" not in card
    facts = export_folder(TINY, f"{base}+{output}", tmp_path / "from-delta")
    assert (facts.base, facts.face_model) == (delta.base, FACE_MODEL)
    assert delta.base_digest in (tmp_path / "from-delta" / CARD).read_text()


def test_a_licence_goes_into_the_card(trained, tmp_path, capsys):
    _, checkpoint, base = trained(TINY)
    flags = ["export", "--model", TINY, "--checkpoint", str(checkpoint), "--base", base]
    for output, card in (("a.safetensors", "a.md"), ("folder", f"folder/{CARD}")):
        whole = [*flags, "--output", str(tmp_path / output), "--licence", "CC-BY-NC-4.0"]
        assert cli.run(cli.VERBS, whole, "idclip") == 0
        text = (tmp_path / card).read_text()
        assert "license: cc-by-nc-4.0\n" in text and "Passed on under `CC-BY-NC-4.0`" in text and "Fill in" not in text
        assert "no licence" not in capsys.readouterr().out
        whole = [*flags, "--output", str(tmp_path / f"other-{output}"), "--licence", "ask me"]
        assert cli.run(cli.VERBS, whole, "idclip") == 2 and not (tmp_path / f"other-{output}").exists()
        assert "the licence must be an identifier such as mit or cc-by-nc-4.0, not 'ask me'" in capsys.readouterr().err


def changed_file(folder, name, change):
    path = folder / name
    path.write_text(change(path.read_text()))


FOLDERS = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), "is not a model folder: it needs the files"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "is not a model folder: it needs the files"),
    "no JSON": (lambda folder: changed_file(folder, CONFIG, lambda text: text[:-9]), "is not the config of a model"),
    "a list": (lambda folder: changed_file(folder, CONFIG, lambda _: "[]"), "is not the config of a model"),
    "no towers": (lambda folder: changed_file(folder, CONFIG, lambda _: '{"model_cfg": {}}'), "is not the config of a model"),
    "odd facts": (
        lambda folder: changed_file(folder, CONFIG, lambda text: text.replace('"recipe": {', '"recipe": 1, "x": {')),
        "holds no table of training flags",
    ),
    "other weights": (
        lambda folder: shift_one_weight(folder / WEIGHTS), "was changed after it was written: its digest is another",
    ),
    "torn weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100]), "is not a safetensors file",
    ),
}  # fmt: skip


def shift_one_weight(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors["logit_scale"] = tensors["logit_scale"] + 1
    save_file(tensors, path)


@pytest.mark.parametrize("case", FOLDERS)
def test_a_changed_folder_is_refused_in_a_sentence(folder_of, tmp_path, case):
    change, words = FOLDERS[case]
    shutil.copytree(folder_of(TINY), tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises(IdClipError, match=words):
        load_model(f"local-dir:{tmp_path / 'copy'}")


def test_what_cannot_be_exported_is_one_sentence(trained, plain_weights, folder_of, tmp_path, capsys):
    _, checkpoint, _ = trained(TINY)
    alone = tmp_path / "alone.pt"
    shutil.copy(checkpoint, alone)
    plain = str(plain_weights(TINY)[1])
    taken = str(folder_of(TINY))
    for model, given, output, words in (
        (TINY, str(checkpoint), taken, "is there already; name a folder that is new or empty"),
        (TINY, plain, str(tmp_path / "a"), "holds no adaptor for IdCLIP-ViT-tiny"),
        (TINY, str(alone), str(tmp_path / "a.safetensors"), "says which weights its training began from"),
        (TINY, str(tmp_path / "none.pt"), str(tmp_path / "a"), "there is no file"),
        ("IdCLIP-none", str(checkpoint), str(tmp_path / "a"), "there is no model named"),
    ):
        flags = ["export", "--model", model, "--checkpoint", given, "--output", output]
        assert cli.run(cli.VERBS, flags, "idclip") == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "a").exists()
    with pytest.raises(IdClipError, match="holds its own weights; leave the checkpoint"):
        load_model(f"local-dir:{taken}", str(checkpoint))
    write_facts(tmp_path, TrainingFacts())
    (tmp_path / "training_facts.json").write_text("{")
    with pytest.raises(IdClipError, match=r"training_facts\.json is not JSON"):
        load_model(TINY, str(alone))


def test_a_gallery_of_another_face_model_gives_no_token(folder_of, tmp_path):
    from open_clip_idplugin.gallery import Gallery
    from open_clip_idplugin.queries.person_as import why_no_token

    model, reasons = f"local-dir:{folder_of(TINY)}", {}
    for face_model in (FACE_MODEL, "insightface:antelopev2"):
        path = tmp_path / f"{face_model[-4:]}.sqlite"
        Gallery(path).enroll("Ann", torch.eye(512)[:1].numpy(), face_model)
        loaded, people = LocalModel(model, gallery=str(path)).load()
        reasons[face_model] = why_no_token(loaded, people.face_model, people.face_size)
    assert reasons[FACE_MODEL] is None
    assert FACE_MODEL in reasons["insightface:antelopev2"] and "antelopev2" in reasons["insightface:antelopev2"]


def test_a_spec_agrees_with_its_models_and_the_unknown_with_all():
    for other in (FACE_MODEL, "insightface:buffalo_l", None):
        require_face_model(FACE_MODEL, other, "faces")
        require_face_model(other, FACE_MODEL, "faces")
    with pytest.raises(IdClipError):
        require_face_model(FACE_MODEL, "insightface:buffalo", "faces")
