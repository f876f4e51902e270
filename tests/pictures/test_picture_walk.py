"""The one walk: what is found, what is passed over and why, links, copies, names in any encoding, shards of mixed formats."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from index_fixtures import OPTIONS, read_index
from picture_fixtures import photograph, ramp, saved
from PIL import Image
from real_photos import REAL, needs_real_photos
from retrieval_fixtures import draw_images, tiny_models, write_shard  # noqa: F401

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery.photo_folders import photos_in
from open_clip_idplugin.pictures import DECODER_VERSION, formats, load_image, passed_over
from open_clip_idplugin.pictures.collection import find_collection
from open_clip_idplugin.pictures.keys import key_of, place_of
from open_clip_idplugin.pictures.walk import pictures_below, walk_pictures
from open_clip_idplugin.retrieval.index import add as index_add
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.sources import find_images, without_keys
from open_clip_idplugin.retrieval.index_folder.card import IndexMismatch
from webdataset_tools.faceswap.identities import load_identities


def write(root, *names, content=None) -> None:
    """Files with other bytes each, unless `content` is given."""
    for name in names:
        path = root / (os.fsdecode(name) if isinstance(name, bytes) else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(repr(name).encode() if content is None else content)


def counts(found) -> dict[tuple[str, str], int]:
    return {(entry.extension, entry.reason): entry.count for entry in found.passed_over}


class TestFolders:
    def test_every_format_in_any_case_and_an_account_of_the_rest(self, tmp_path):
        good = ("a.jpg", "b.JPG", "sub/c.Jpeg", "d.PNG", "e.webp", "f.TIFF", "g.gif", "h.avif", "i.bmp", "k.jfif")
        write(tmp_path, *good)
        write(tmp_path, "x.CR2", "y.nef", "film.MOV", "notes.txt", "x.xmp", "README")
        write(tmp_path, "._a.jpg", ".hidden.jpg", ".thumbnails/a.jpg", "@eaDir/a.jpg/t.jpg", "#recycle/z.jpg")
        write(tmp_path, "sub/.Trash-1000/files/q.JPG", "__MACOSX/._a.jpg")
        os.mkfifo(tmp_path / "pipe.jpg")
        found = walk_pictures(str(tmp_path))
        assert found.keys == tuple(sorted(good)) and len(found.sizes) == len(good)
        assert counts(found) == {
            (".jpg", passed_over.JUNK): 7,
            (".cr2", passed_over.RAW): 1,
            (".nef", passed_over.RAW): 1,
            (".mov", passed_over.VIDEO): 1,
            (".txt", passed_over.NO_PICTURE): 1,
            (".xmp", passed_over.NO_PICTURE): 1,
            ("", passed_over.NO_PICTURE): 1,
            (".jpg", passed_over.NO_FILE): 1,
        }
        assert find_images(str(tmp_path)).keys == find_collection(str(tmp_path), 100).tasks[0].keys == found.keys

    def test_heic_without_its_extra_is_counted_and_not_lost_in_silence(self, tmp_path, monkeypatch):
        write(tmp_path, "a.HEIC", "b.jpg")
        monkeypatch.setattr(passed_over, "reads_heic", lambda: False)
        assert walk_pictures(str(tmp_path)).keys == ("b.jpg",)
        (entry,) = find_images(str(tmp_path)).passed_over
        assert (entry.extension, entry.count, entry.example) == (".heic", 1, "a.HEIC")
        assert "pip install 'open-clip-idplugin[heic]'" in entry.reason
        monkeypatch.setattr(passed_over, "reads_heic", lambda: True)
        assert walk_pictures(str(tmp_path)).keys == ("a.HEIC", "b.jpg")
        (tmp_path / "b.jpg").unlink()
        monkeypatch.setattr(passed_over, "reads_heic", lambda: False)
        with pytest.raises(IdClipError, match=r"neither tar files nor pictures.*1 x \.heic, HEIC needs the package"):
            walk_pictures(str(tmp_path))

    def test_links_are_followed_once(self, tmp_path):
        write(tmp_path, "photos/z/1.jpg", "elsewhere/2.jpg", "elsewhere/deep/3.jpg")
        photos = tmp_path / "photos"
        (photos / "a_link").symlink_to(photos / "z")  # the tree itself comes first
        (photos / "loop").symlink_to(photos)
        (photos / "self").symlink_to("self")
        (photos / "out").symlink_to(tmp_path / "elsewhere")
        (photos / "out_again").symlink_to(tmp_path / "elsewhere")
        (photos / "file.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
        (photos / "gone.jpg").symlink_to("nowhere.jpg")
        found = walk_pictures(str(photos))
        assert [key for key in found.keys if not key.startswith("out/back")] == [
            "file.jpg",
            "gone.jpg",  # a picture that is missing: the reader says so
            "out/deep/3.jpg",
            "z/1.jpg",
        ]
        assert found.copies == {"out/2.jpg": "file.jpg"} and found.sizes[found.keys.index("gone.jpg")] == -1
        assert sum(entry.count for entry in found.passed_over if entry.reason == passed_over.LINK_SEEN) >= 4

    def test_exact_copies_are_found_once(self, tmp_path):
        write(tmp_path, "a.jpg", "b.jpg", content=b"first" * 9000)
        write(tmp_path, "c/d.jpg", content=b"first" * 9000)
        write(tmp_path, "e.jpg", content=b"first" * 4000 + b"other" + b"first" * 4999)  # only the middle differs
        write(tmp_path, "empty.jpg", "void.jpg", content=b"")
        found = walk_pictures(str(tmp_path))
        assert found.keys == ("a.jpg", "e.jpg", "empty.jpg", "void.jpg")
        assert found.copies == {"b.jpg": "a.jpg", "c/d.jpg": "a.jpg"}
        assert find_images(str(tmp_path)).account()["exact_copies"] == found.copies

    def test_shards_come_before_pictures_beside_them(self, tmp_path):
        write(tmp_path, "0.tar", "1.TAR", "a.jpg", "sub/2.tar", ".x.tar")
        found = walk_pictures(str(tmp_path))
        assert [shard.name for shard in found.shards] == ["0.tar", "1.TAR"]
        assert counts(found)[".jpg", passed_over.BESIDE_SHARDS] == 1

    def test_a_folder_that_may_not_be_read(self, tmp_path, monkeypatch):
        write(tmp_path, "a.jpg", "closed/b.jpg")
        scan = os.scandir

        def guarded(path):
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", guarded)
        found = walk_pictures(str(tmp_path))
        assert found.keys == ("a.jpg",) and counts(found) == {("", passed_over.NO_ACCESS): 1}

    @needs_real_photos
    def test_real_photographs(self):
        assert len(walk_pictures(f"{REAL}/identities").keys) == 16
        assert len(walk_pictures(f"{REAL}/coco").keys) == len(walk_pictures(f"{REAL}/coco/**/*.jpg").keys) == 51
        people = load_identities(REAL / "identities").identities
        assert len(people) == 8 and sum(len(person.photos) for person in people) == 16


class TestNames:
    LATIN = "Jos\xe9 am Fl\xfc\xdfchen.jpg".encode("latin-1")

    def test_any_encoding_gives_a_key_and_the_key_the_file(self, tmp_path):
        content = saved(Image.fromarray(ramp()), "JPEG")
        write(tmp_path, self.LATIN, "日本\n.jpg", content=content)
        write(tmp_path, b"\xff\xfe/\x80.jpg", "plain\\xff.jpg")
        found = walk_pictures(str(tmp_path))
        assert found.keys == ("Jos\\xe9 am Fl\\xfc\\xdfchen.jpg", "\\xff\\xfe/\\x80.jpg", "plain\\xff.jpg")
        assert found.copies == {"日本\n.jpg": found.keys[0]}
        for key in found.keys:
            key.encode()
            assert found.place(key).is_file()
        assert load_image(found.place(found.keys[0])).size == (60, 40)
        assert photos_in(tmp_path)[0][0].is_file()

    def test_keys_of_text_are_the_text(self, tmp_path):
        for name in ("a.jpg", "日本.jpg", "a\\xff.jpg"):
            write(tmp_path, name)
            assert key_of(name) == name and place_of(tmp_path, name) == tmp_path / name

    def test_an_index_of_them(self, tmp_path, tiny_models):  # noqa: F811
        images = draw_images(2)
        write(tmp_path / "pictures", self.LATIN, content=images[0].jpeg)
        (tmp_path / "shards").mkdir()
        with tarfile.open(tmp_path / "shards" / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
            entry = tarfile.TarInfo("fl\xfc.jpg")
            entry.size = len(images[1].jpeg)
            tar.addfile(entry, io.BytesIO(images[1].jpeg))
        loaded = tiny_models.load_plain()
        for name, key in (("pictures", "Jos\\xe9 am Fl\\xfc\\xdfchen.jpg"), ("shards", "fl\\xfc")):
            card = index.build_index(find_images(str(tmp_path / name)), loaded, tmp_path / f"{name}_index", OPTIONS)
            assert card.images == 1 and list(read_index(tmp_path / f"{name}_index")[0]["image_path"]) == [key]


class TestLists:
    def test_two_folders_of_one_name_and_count_differ(self, tmp_path, tiny_models):  # noqa: F811
        images = draw_images(3)
        write(tmp_path / "x/photos", "1.jpg", content=images[0].jpeg)
        write(tmp_path / "y/photos", "1.jpg", content=images[1].jpeg)
        write(tmp_path / "z/other", "1.jpg", content=images[0].jpeg)
        first, second, moved = (find_images(str(tmp_path / name)) for name in ("x/photos", "y/photos", "z/other"))
        assert first.describe() != second.describe() and first.describe() == moved.describe()
        loaded = tiny_models.load_plain()
        card = index.build_index(first, loaded, tmp_path / "index", OPTIONS)
        assert index.build_index(moved, loaded, tmp_path / "index", OPTIONS) == card
        with pytest.raises(IdClipError, match="holds an index of other images"):
            index.build_index(second, loaded, tmp_path / "index", OPTIONS)

    def test_the_list_goes_with_the_keys(self, tmp_path):
        write(tmp_path, "1.jpg", "2.jpg", "33.jpg")
        source = find_images(str(tmp_path))
        left, known = without_keys(source, {"1.jpg"})
        assert (left.keys, left.sizes, known) == (("2.jpg", "33.jpg"), source.sizes[1:], ["1.jpg"])
        assert left.describe()["list_sha256"] != source.describe()["list_sha256"]


def test_shards_may_mix_formats(tmp_path, tiny_models):  # noqa: F811
    """The rarer formats were left out as pictures 'that cannot be read'."""
    pictures = {f"{number}_n1": photograph(seed=number) for number in range(6)}
    kinds = {"0_n1": "jpg", "1_n1": "png", "2_n1": "webp", "3_n1": "PNG", "4_n1": "tif", "5_n1": "jpeg"}
    names = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        for key, pixels in pictures.items():
            kind = kinds[key]
            members = {kind: saved(Image.fromarray(pixels), names.get(kind, kind.upper())), "txt": key.encode()}
            for extension, content in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    loaded = tiny_models.load_plain()
    source = find_images(str(shards))
    assert source.count == 6 and source.has_captions
    card = index.build_index(source, loaded, tmp_path / "index", OPTIONS)
    metadata, vectors = read_index(tmp_path / "index")
    assert (card.images, card.skipped) == (6, 0)
    assert list(metadata["image_path"]) == list(metadata["caption"]) == list(pictures)
    for row, (key, pixels) in enumerate(pictures.items()):
        if kinds[key] not in ("jpg", "jpeg", "webp"):  # without loss
            expected = loaded.model.encode_image(loaded.preprocess(Image.fromarray(pixels))[None], normalize=True)
            np.testing.assert_allclose(vectors[row], expected[0].detach().numpy(), atol=1e-3)


def test_an_index_reports_what_it_passed_over(tmp_path, tiny_models, capsys):  # noqa: F811
    images = draw_images(3)
    write(tmp_path / "pictures", "1.jpg", "copy.jpg", content=images[0].jpeg)
    write(tmp_path / "pictures", "film.mp4", "IMG_1.CR2")
    index.build_index(find_images(str(tmp_path / "pictures")), tiny_models.load_plain(), tmp_path / "index", OPTIONS)
    report = json.loads((tmp_path / "index" / "index_report.json").read_text())
    assert report["exact_copies"] == {"copy.jpg": "1.jpg"}
    assert {(entry["extension"], entry["reason"]) for entry in report["passed_over"]} == {
        (".mp4", passed_over.VIDEO),
        (".cr2", passed_over.RAW),
    }
    printed = capsys.readouterr().out
    assert "passed over: 1 x .cr2, raw camera format" in printed and "exact copies: 1" in printed


class TestDecoderVersion:
    @pytest.fixture
    def old(self, tmp_path, tiny_models):  # noqa: F811
        """An index whose card was written before decoders had versions."""
        images, loaded = draw_images(2), tiny_models.load_plain()
        write(tmp_path / "first", "1.jpg", content=images[0].jpeg)
        write(tmp_path / "more", "2.jpg", content=images[1].jpeg)
        card = index.build_index(find_images(str(tmp_path / "first")), loaded, tmp_path / "index", OPTIONS)
        assert card.decoder == DECODER_VERSION
        values = json.loads((tmp_path / "index" / "index_card.json").read_text())
        del values["decoder"]
        (tmp_path / "index" / "index_card.json").write_text(json.dumps(values))
        return tmp_path / "index"

    def test_of_before_is_served_with_a_sentence_and_not_added_to(self, old, tmp_path, tiny_models, caplog):  # noqa: F811
        from open_clip_idplugin.retrieval.ranking.opened_index import IndexOpener

        loaded = tiny_models.load_plain()
        assert IndexOpener(loaded)(old).rows == 1
        (said,) = [record.getMessage() for record in caplog.records if "picture decoder" in record.getMessage()]
        for affected in ("turned by EXIF", "transparent", "16 bits", "colour profile"):
            assert affected in said
        for again in (
            lambda: index_add.add_images(old, find_images(str(tmp_path / "more")), loaded, OPTIONS),
            lambda: index.build_index(find_images(str(tmp_path / "more")), loaded, old, OPTIONS),
        ):
            with pytest.raises(IndexMismatch, match="version 1 of the picture decoder and this is version"):
                again()


def test_folders_of_people_tell_what_is_no_photo(tmp_path):
    write(tmp_path, "Ada/1.jpg", "Ada/2.GIF", "Ada/film.mov", "Ada/.hidden.jpg")
    write(tmp_path, "Ada/copy.jpg", content=repr("Ada/1.jpg").encode())
    photos, skipped = photos_in(tmp_path / "Ada")
    assert [photo.name for photo in photos] == ["1.jpg", "2.GIF"]
    assert {skip.key for skip in skipped} == {"Ada/film.mov", "Ada/.hidden.jpg", "Ada/copy.jpg"}
    found = load_identities(tmp_path)
    assert found.identities[0].photos == ("1.jpg", "2.GIF")
    assert {skip.key for skip in found.skipped_photos} == {skip.key for skip in skipped}


def test_pictures_below_one_folder_only(tmp_path):
    write(tmp_path, "a.jpg", "sub/b.jpg")
    assert pictures_below(tmp_path, subfolders=False).keys == ("a.jpg",)
    assert pictures_below(tmp_path).keys == ("a.jpg", "sub/b.jpg")


@pytest.mark.skipif(not formats.reads_heic(), reason="without the extra 'heic'")
def test_heic_in_a_folder_and_in_a_shard(tmp_path, tiny_models):  # noqa: F811
    import pillow_heif

    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(photograph())).save(stream)
    write(tmp_path / "pictures", "IMG_0001.HEIC", content=stream.getvalue())
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        tar.add(tmp_path / "pictures" / "IMG_0001.HEIC", "IMG_0001.HEIC")
    for name in ("pictures", "shards"):
        source = find_images(str(tmp_path / name))
        card = index.build_index(source, tiny_models.load_plain(), tmp_path / f"{name}_index", OPTIONS)
        assert (card.images, card.skipped) == (1, 0)


def test_index_add_takes_the_account_too(tmp_path, tiny_models):  # noqa: F811
    images, loaded = draw_images(4), tiny_models.load_plain()
    write(tmp_path / "first", "1.jpg", content=images[0].jpeg)
    write(tmp_path / "more", "2.jpg", "2b.jpg", content=images[1].jpeg)
    index.build_index(find_images(str(tmp_path / "first")), loaded, tmp_path / "index", OPTIONS)
    added = index_add.add_images(tmp_path / "index", find_images(str(tmp_path / "more")), loaded, OPTIONS)
    assert added.images == 1
    report = json.loads((tmp_path / "index" / "index_report.json").read_text())
    assert report["added"][0]["exact_copies"] == {"2b.jpg": "2.jpg"}
