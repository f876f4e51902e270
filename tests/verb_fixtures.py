"""A small world that every verb can work on, and a call of each verb that works."""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from collection_fixtures import draw_collection
from face_pack_fixtures import write_pack
from release_fixtures import write_release
from retrieval_fixtures import IDENTITY, PLAIN
from training_fixtures import small_world, write_shards

from open_clip_idplugin import cli
from open_clip_idplugin.retrieval.face_index.kept_face_table import FOLDER as KEPT_TABLE

GALLERY, SPEC = "{gallery}", "{pack}"
OWN_FACES = ("--faces", SPEC, "--det_size", "192")

# Verb -> words of a call that works; {names} stand for files of the world, {new} for a place where there is nothing.
CALLS: Mapping[str, tuple[str, ...]] = {
    "open": (
        "{pictures}", "--model", PLAIN, "--checkpoint", "{plain}", "--output", "{new}", "--workers", "0", "--noserve",
        *OWN_FACES,
    ),
    "demo": ("--output", "{new}", "--workers", "1"),
    "miniature": ("--output", "{new}", "--workers", "1"),
    "swap": ("--coco", "{coco}", "--identities", "{photos}", "--output", "{new}", "--workers", "1", *OWN_FACES),
    "shards": ("--release", "{release}", "--split", "train", "--output", "{new}", "--crops", "none", "--workers", "1"),
    "inspect": ("{shard}",),
    "faces": ("--input", "{pictures}", "--output", "{new}", "--workers", "1", *OWN_FACES),
    "models": ("list",),
    "evaluate": (
        "--data", "{shards}", "--model", IDENTITY, "--checkpoint", "{identity}", "--configurations", "conf1", "--workers", "0",
    ),
    "export": ("--model", IDENTITY, "--checkpoint", "{identity}", "--output", "{new}"),
    "benchmark": ("--output", "{new}", "--recipes", "paper", "--seeds", "0", "--workers", "1"),
    "index": ("--images", "{pictures}", "--model", PLAIN, "--checkpoint", "{plain}", "--output", "{new}", "--workers", "0"),
    "index_faces": ("--index", "{index}", "--face_table", "{table}"),
    "index_add": ("--index", "{index}", "--images", "{pictures}", "--model", PLAIN, "--checkpoint", "{plain}", "--workers", "0"),
    "index_remove": ("--index", "{index}", "--keys", "nobody"),
    "index_compact": ("--index", "{index}"),
    "enroll": ("Ann", "{photo}", "--gallery", GALLERY, *OWN_FACES),
    "enroll_folder": ("{people}", "--gallery", GALLERY, *OWN_FACES, "--report", "{new}"),
    "enroll_regions": ("{pictures}", "--gallery", GALLERY, *OWN_FACES, "--report", "{new}"),
    "suggest": (
        "--face_table", "{table}", "--output", "{new}", "--gallery", GALLERY, "--same_face", "0.5", "--min_faces", "2",
        "--least_face", "1",
    ),
    "enroll_groups": ("{groups}", "--gallery", GALLERY, "--report", "{new}"),
    "calibrate": ("--face_table", "{table}", "--output", "{new}", "--nostore"),
    "list": ("--gallery", GALLERY),
    "rename": ("Bob", "Rob", "--gallery", GALLERY),
    "edit": ("Bob", "--notes", "a note", "--gallery", GALLERY),
    "alias": ("Bob", "Bobby", "--gallery", GALLERY),
    "merge": ("Bob", "--into", "Cid", "--gallery", GALLERY),
    "forget": ("Bob", "--gallery", GALLERY),
    "export_people": ("{new}", "Bob", "--gallery", GALLERY),
    "import_people": ("{people_file}", "--gallery", "{new}"),
    "search": ("blocks", "--index", "{index}", "--model", PLAIN, "--checkpoint", "{plain}", "--gallery", GALLERY),
    "serve": ("--index", "{index}", "--model", PLAIN, "--checkpoint", "{plain}", "--gallery", GALLERY, "--port", "0"),
}  # fmt: skip


@pytest.fixture(scope="session")
def verb_world(tiny_models, tmp_path_factory) -> dict[str, str]:
    """Name of a file of the world -> its path, for the calls above."""
    folder = tmp_path_factory.mktemp("verbs")
    draw_collection(folder / "pictures")
    write_pack(folder / "pack", size=16)
    write_release(folder / "release", photos=1)
    write_shards(folder / "shards", small_world(), shards=1)
    person = folder / "people" / "Dan"
    person.mkdir(parents=True)
    (person / "one.png").write_bytes((folder / "pictures" / "one.png").read_bytes())
    world = {
        "pictures": folder / "pictures",
        "photo": folder / "pictures" / "one.png",
        "people": folder / "people",
        "release": folder / "release",
        "photos": folder / "release" / "vggface_test_kaggle" / "photos",
        "coco": folder / "coco",
        "shards": folder / "shards",
        "shard": folder / "shards" / "00000.tar",
        "plain": tiny_models.plain,
        "identity": tiny_models.identity,
        "index": folder / "index",
        "table": folder / "index" / KEPT_TABLE,
        "gallery": folder / "gallery.sqlite",
        "groups": folder / "groups" / "groups.csv",
        "people_file": folder / "people.zip",
    }
    texts = {name: str(path) for name, path in world.items()} | {"pack": f"insightface:{folder / 'pack'}"}
    make_world(texts)
    return texts


def words_of(verb: str, world: Mapping[str, str], new: Path) -> list[str]:
    return [word.format(**world, new=new) for word in CALLS[verb]]


def make_world(world: Mapping[str, str]) -> None:
    """By the verbs themselves."""
    own = [word.format(**world) for word in OWN_FACES]
    gallery = ["--gallery", world["gallery"]]
    for words in (
        ["index", "--images", world["pictures"], "--model", PLAIN, "--checkpoint", world["plain"], "--output", world["index"],
         "--workers", "0", "--index_key", "Flat", *own],
        ["enroll", "Bob", world["photo"], *gallery, *own],
        ["enroll", "Cid", str(Path(world["pictures"], "sub", "four.png")), *gallery, *own],
        ["export_people", world["people_file"], "Bob", *gallery],
        ["suggest", "--face_table", world["table"], "--output", str(Path(world["groups"]).parent), "--same_face", "0.5",
         "--min_faces", "2", "--least_face", "1", *gallery],
    ):  # fmt: skip
        with redirect_stdout(io.StringIO()):
            assert cli.run(cli.VERBS, words, "idclip") == 0, words
