"""`idclip swap` from and to URLs, and on Spark: always the same release."""

import shutil
from pathlib import Path

import faceswap_fixtures as fixtures
import fsspec
import pytest
import worker_pool_fixtures

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import location
from open_clip_idplugin.storage.spark_session import open_session
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.swap_release import build_release
from webdataset_tools.release import SPLITS, load_release

OPTIONS = fixtures.LENIENT


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = fixtures.write_world(tmp_path_factory.mktemp("world"), train=6, val=6, people=24)
    rows = "".join(f"{path.name},{'ab'[int(path.name[-1]) % 2]}\n" for path in sorted(world.people.iterdir()))
    (world.root / "people.csv").write_text("identity_id,group\n" + rows)
    return world


@pytest.fixture(scope="module")
def release(world, tmp_path_factory):
    """The release as one process makes it from and in local folders."""
    output = tmp_path_factory.mktemp("releases") / "swapped"
    build_release(options(world, str(world.root), output), world.engine())
    return output


def options(world, root: str, output, **more) -> SwapOptions:
    places = {"coco": f"{root}/coco", "identities": f"{root}/vggface2/train", "attributes": f"{root}/people.csv"}
    return SwapOptions(output=output, **{**places, **OPTIONS, **more})


def files_of(folder) -> dict[str, bytes]:
    if isinstance(folder, Path):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = folder.fs.find(folder.path)
    return {path.removeprefix(folder.path).lstrip("/"): folder.fs.cat_file(path) for path in found}


def test_urls_in_and_out_give_the_same_release(world, release, tmp_path):
    url = "memory://swap/world"
    location(url).fs.put(str(world.root), "/swap/world", recursive=True)
    output = location("memory://swap/release")
    report = build_release(options(world, url, "memory://swap/release"), world.engine())
    assert files_of(output) == files_of(release)
    assert build_release(options(world, url, output), world.engine()).to_json() == report.to_json()
    for split in SPLITS:
        ours, theirs = (load_release(place, split, 64).samples for place in (str(output), release))
        assert [sample.key for sample in ours] == [sample.key for sample in theirs] and ours
    with pytest.raises(IdClipError, match="seed was 0, is 1"):
        build_release(options(world, url, output, seed=1), world.engine())
    build_release(options(world, f"file://{world.root}", f"file://{tmp_path}/r"), world.engine())
    assert files_of(tmp_path / "r") == files_of(release)


def test_a_run_that_lost_its_store_goes_on(world, release, tmp_path, monkeypatch):
    output = location("memory://swap/resumed")
    uploads = []
    upload = type(output.fs).put_file

    def failing(self, source, target, **kwargs):
        uploads.append(target)
        if len(uploads) in (4, 21):
            raise RuntimeError("connection reset")
        return upload(self, source, target, **kwargs)

    monkeypatch.setattr(type(output.fs), "put_file", failing)
    for _ in range(2):
        with pytest.raises(IdClipError, match=r"cannot write .*connection reset.*run the same"):
            build_release(options(world, str(world.root), output), world.engine())
    build_release(options(world, str(world.root), output), world.engine())
    assert files_of(output) == files_of(release)


def test_places_that_cannot_be_used_are_one_sentence(world, tmp_path):
    for more, message in (
        ({"workers": 2}, "memory of one process"),
        ({"distributor": "pyspark"}, "memory of one process"),
        ({"distributor": "slurm"}, "--distributor must be processes or pyspark"),
        ({"coco": "memory://swap/nothing"}, "there is no folder memory://swap/nothing; check --coco"),
        ({"attributes": "memory://swap/none.csv"}, "there is no file memory://swap/none.csv"),
        ({"identities": "nope://x"}, "nope://x cannot be used"),
    ):
        with pytest.raises(IdClipError, match=message):
            options(world, str(world.root), "memory://swap/out", **more)
    assert not fsspec.filesystem("memory").exists("/swap/out")


@pytest.mark.slow
def test_spark_gives_the_same_release(world, release, tmp_path):
    pytest.importorskip("pyspark")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    context = open_session(2)
    try:
        assert context.master == "local[2]"
        build_release(
            options(world, str(world.root), tmp_path / "spark", workers=2, distributor="pyspark"), world.engine()
        )
    finally:
        worker_pool_fixtures.stop_spark()
    assert files_of(tmp_path / "spark") == files_of(release)
