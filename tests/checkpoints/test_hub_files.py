"""Delta files on a model hub: huggingface_hub itself fetches them from a hub on a local port, or finds them in its cache."""

import contextlib
import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, file_download

from open_clip_idplugin import cli
from open_clip_idplugin.checkpoints import hub_files
from open_clip_idplugin.checkpoints.delta_files import read_delta
from open_clip_idplugin.checkpoints.hub_files import DELTA, on_this_machine
from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.checkpoints.training_facts import TrainingFacts, write_facts
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.file_hash import file_sha256

pytestmark = pytest.mark.host

MODEL, FACE_MODEL, COMMIT = "IdCLIP-ViT-miniature", "insightface:buffalo_l/w600k_r50-123456789abc", "a" * 40
RECALLS = {"t2i_R@1": 0.423, "t2i_R@10": 0.962, "entity_R@1_kmin": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained checkpoint and what `idclip evaluate` would say of it; and the model."""
    import open_clip

    import open_clip_idplugin  # noqa: F401

    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL, pretrained="miniature").eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "adaptor" in key:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "e.pt")
    write_facts(folder, TrainingFacts(MODEL, "miniature", FACE_MODEL, {"--lr": 5e-5}))
    about = {"data": str(folder / "shards" / "test"), "images": 7, "weights": {"e.pt": file_sha256(folder / "e.pt")}}
    metrics = {"captions": {"t2i_R@1": 0.134}, "conf1": RECALLS}
    (folder / "results.json").write_text(json.dumps({"about": about, "metrics": metrics}))
    return folder, model


@pytest.fixture(scope="module")
def repository(trained, tmp_path_factory):
    """A folder as `idclip export` writes it for a hub."""
    output = tmp_path_factory.mktemp("hub") / "adaptor" / DELTA
    assert export(trained[0], output, "--evaluation", str(trained[0] / "results.json")) == 0
    return output.parent


def export(folder, output, *more):
    flags = ["--model", MODEL, "--checkpoint", str(folder / "e.pt"), "--output", str(output)]
    return cli.run(cli.VERBS, ["export", *flags, *more], "idclip")


class Hub:
    """A hub on a local port: `files[repository, revision][name]` is the content of a file, or an error code of the hub."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes] | str] = {}
        self.asked: list[tuple[str, str]] = []
        self.size_told: int | None = None

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        owner, name, _, revision, file = handler.path.lstrip("/").split("/", 4)
        self.asked.append((handler.command, file))
        held = self.files.get((f"{owner}/{name}", revision), "RepoNotFound")
        content = held if isinstance(held, str) else held.get(file, "EntryNotFound")
        if isinstance(content, str):
            handler.send_response(403 if content == "GatedRepo" else 404)
            headers, body = {"X-Error-Code": content}, b""
        else:
            handler.send_response(200)
            headers, body = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content
        if self.size_told:
            headers["X-Linked-Size"] = str(self.size_told)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """huggingface_hub with an empty cache of its own, and offline (see conftest.py)."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub_files._fetch_delta.cache_clear()
    yield tmp_path / "cache"
    hub_files._fetch_delta.cache_clear()


@pytest.fixture
def hub(cache, monkeypatch):
    fake = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            fake.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (file_download, constants):  # where it is, and whether it is used, goes by the version
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    new_sessions()
    yield fake
    monkeypatch.undo()
    new_sessions()
    server.shutdown()
    thread.join()


def new_sessions():
    """huggingface_hub looks whether it is offline when it makes a session."""
    with contextlib.suppress(ImportError):  # version 1 looks with every request
        from huggingface_hub.utils import reset_sessions

        reset_sessions()


@torch.no_grad()
def test_a_repository_is_fetched_once_and_is_the_trained_model(trained, repository, hub, faces):
    hub.files["me/adaptor", "main"] = {DELTA: (repository / DELTA).read_bytes()}
    loaded = load_model(MODEL, "hf-hub:me/adaptor")
    text = loaded.tokenizer(["[TOK] runs"], faces=faces[0])
    assert torch.equal(loaded.model.encode_text(text), trained[1].encode_text(text))
    assert loaded.face_model == FACE_MODEL and loaded.adaptor_loaded
    path = Path(loaded.checkpoint)
    assert path.is_file() and path.parts[-4:] == ("models--me--adaptor", "snapshots", COMMIT, DELTA)
    assert [entry for entry in hub.asked if entry[0] == "GET"] == [("GET", DELTA)]  # nothing else is fetched
    assert on_this_machine("miniature+hf-hub:me/adaptor") == f"miniature+{path}"
    again = load_model(MODEL, "miniature+hf-hub:me/adaptor")
    assert torch.equal(again.model.encode_text(text), trained[1].encode_text(text))


def test_a_revision_and_the_cache_without_a_network(repository, cache, hub, monkeypatch):
    hub.files["me/adaptor", "v2"] = {DELTA: (repository / DELTA).read_bytes()}
    path = on_this_machine("hf-hub:me/adaptor@v2")
    assert read_delta(path).model == MODEL
    hub_files._fetch_delta.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    new_sessions()
    assert on_this_machine("hf-hub:me/adaptor@v2") == path
    with pytest.raises(
        IdClipError, match=r"is not on this machine.*hf download me/adaptor idclip_delta.safetensors --rev"
    ):
        on_this_machine("hf-hub:me/adaptor@v3")


def test_a_cache_as_huggingface_hub_lays_it_out(trained, repository, cache):
    folder = cache / "models--me--cached"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    shutil.copy(repository / DELTA, folder / "snapshots" / COMMIT / DELTA)
    assert load_model(MODEL, "hf-hub:me/cached").face_model == FACE_MODEL


REFUSED = {
    "RepoNotFound": "the hub has no repository me/other that you may read",
    "RevisionNotFound": "has no revision main",
    "GatedRepo": "who accept its terms",
    "EntryNotFound": r"holds no idclip_delta\.safetensors, which `idclip export",
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_a_hub_has_not_is_one_sentence(hub, code):
    hub.files["me/other", "main"] = {} if code == "EntryNotFound" else code
    with pytest.raises(IdClipError, match=REFUSED[code]):
        load_model(MODEL, "hf-hub:me/other")


def test_what_is_no_delta_too_large_or_of_another_base_is_refused(repository, trained, hub, tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    content = (repository / DELTA).read_bytes()
    for name, held in (
        ("whole", (tmp_path / "other.safetensors").read_bytes()),
        ("torn", content[:5000]),
        ("ok", content),
    ):
        hub.files[f"me/{name}", "main"] = {DELTA: held}
    with pytest.raises(IdClipError, match="is not a delta file"):
        load_model(MODEL, "hf-hub:me/whole")
    with pytest.raises(IdClipError, match="is not a safetensors file"):
        load_model(MODEL, "hf-hub:me/torn")
    with pytest.raises(IdClipError, match="is the delta of a IdCLIP-ViT-miniature, not of"):
        load_model("IdCLIP-ViT-B-32", "hf-hub:me/ok")
    state = dict(load_model(MODEL, "miniature").model.state_dict())
    plain = {key: value + 1 for key, value in state.items() if key in read_plain_keys()}
    torch.save(plain, tmp_path / "base.pt")
    with pytest.raises(IdClipError, match="was trained on other base weights"):
        load_model(MODEL, f"{tmp_path / 'base.pt'}+hf-hub:me/ok")
    hub_files._fetch_delta.cache_clear()
    hub.size_told, hub.files["me/huge", "main"] = 9 << 30, {DELTA: content}
    with pytest.raises(IdClipError, match=r"has 9\.7 GB, and at most 8\.6 are fetched"):
        load_model(MODEL, "hf-hub:me/huge")


def read_plain_keys():
    from open_clip_idplugin.assets import shipped
    from open_clip_idplugin.checkpoints.loading import read_weights

    return read_weights(shipped("miniature_clip.safetensors")).keys()


@pytest.mark.parametrize("name", ["", "adaptor", "me/a/b", "me/adaptor@", "me/..", "@v1", "me/a b"])
def test_what_names_no_repository(cache, name):
    with pytest.raises(IdClipError, match="is no repository of a hub; write it as hf-hub:OWNER/NAME"):
        on_this_machine(f"hf-hub:{name}")


def test_what_is_not_of_a_hub_stays(cache):
    for checkpoint in ("openai", "a/best.pt", "openai+a/delta.safetensors", "xhf-hub:me/adaptor"):
        assert on_this_machine(checkpoint) == checkpoint


def test_the_verbs_say_so(cache, capsys):
    assert (
        cli.run(cli.VERBS, ["export", "--model", MODEL, "--checkpoint", "hf-hub:me/none", "--output", "x"], "idclip")
        == 2
    )
    assert "hf-hub:me/none is not on this machine" in capsys.readouterr().err.strip().splitlines()[-1]
    assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_the_card_says_what_a_stranger_must_know(trained, repository):
    assert sorted(path.name for path in repository.iterdir()) == ["README.md", DELTA]
    card = (repository / "README.md").read_text()
    for words in ("# adaptor\n", "| `--lr` | 5e-05 |", f"| face model | `{FACE_MODEL}` |",
                  "| licence of the face model | non-commercial research only, see https://github.com/deepinsight",
                  "On `test` (7 images), in percent", "| query | t2i R@1 | t2i R@10 | entity R@1 kmin |",
                  "| captions | 13.4 |  |  |", "| conf1 | 42.3 | 96.2 | 50.0 |", "biometric data", "GDPR",
                  "Not for identifying strangers", "--checkpoint hf-hub:OWNER/NAME"):  # fmt: skip
        assert words in card, words
    assert (
        str(trained[0]) not in card and str(trained[0].parent) not in card
    )  # where the shards lie is nobody's business


def test_an_evaluation_of_other_weights_or_no_evaluation_is_refused(trained, tmp_path, capsys):
    folder, _ = trained
    about = {"data": "x", "weights": {"e.pt": "0" * 64}}
    for content, words in (
        (json.dumps({"about": about, "metrics": {"conf1": RECALLS}}), "is about other weights than"),
        (json.dumps({"about": about, "metrics": {"conf1": {"t2i_R@1": "<b>"}}}), "is not a results.json"),
        (json.dumps({"metrics": {}}), "is not a results.json"),
        ("[", "is not a results.json"),
    ):
        (tmp_path / "results.json").write_text(content)
        assert export(folder, tmp_path / DELTA, "--evaluation", str(tmp_path / "results.json")) == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / DELTA).exists()
    (tmp_path / "README.md").write_text("mine")
    assert export(folder, tmp_path / DELTA) == 2 and (tmp_path / "README.md").read_text() == "mine"
    assert "would be the card; name a folder without one" in capsys.readouterr().err
