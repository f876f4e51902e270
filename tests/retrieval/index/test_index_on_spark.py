"""`idclip index --distributor pyspark`: the index that this process makes, and sentences for what machines lack."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("clip_retrieval")
pytest.importorskip("pyspark")

from retrieval_fixtures import DrawnImage, draw_images, write_shard
from worker_pool_fixtures import stop_spark

from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.errors import HostMismatchError, IdClipError
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.pictures.thumbnails import FILE_NAME, Thumbnails
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index import embed_on_spark
from open_clip_idplugin.retrieval.index.embed import embed_images
from open_clip_idplugin.retrieval.index.partitions import PYSPARK, EmbedOptions, open_partitions
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.storage import spark_session

MODEL = "IdCLIP-ViT-miniature"  # Spark's workers know the models of the package alone
OPTIONS = EmbedOptions(batch_size=3, workers=2)
ON_SPARK = replace(OPTIONS, distributor=PYSPARK)


@pytest.fixture(scope="module")
def spark():
    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    yield spark_session.open_session(2)
    stop_spark()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    import open_clip
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "miniature.pt"
    torch.save(open_clip.create_model(MODEL).state_dict(), path)
    return load_model(MODEL, str(path))


@pytest.fixture
def shards(tmp_path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    images = draw_images(32)
    for number in range(4):
        write_shard(folder / f"{number:05d}.tar", images[number * 8 : number * 8 + 8])
    bad = DrawnImage("100_n1", b"no picture at all", "text", {"image_id": "a string this time"})
    write_shard(folder / "00004.tar", [bad, *draw_images(1, seed=1)])
    return folder


def contents(folder: Path) -> dict[str, object]:
    """What an index holds, its faiss index by what it finds."""
    import faiss
    import pyarrow.parquet

    card = json.loads((folder / "index_card.json").read_text())
    vectors = np.concatenate([np.load(path) for path in sorted((folder / "img_emb").glob("*.npy"))])
    found = faiss.read_index(str(folder / "image.index"))
    faiss.extract_index_ivf(found).nprobe = 4
    return {
        "card": card,
        "report": (folder / "index_report.json").read_text(),
        "metadata": [pyarrow.parquet.read_table(path) for path in sorted((folder / "metadata").glob("*.parquet"))],
        "vectors": vectors.astype(np.float32),
        "found": found.search(vectors.astype(np.float32), 5)[1].tolist(),
        "thumbnails": Thumbnails(folder, card["partitions"]).get(range(len(vectors))),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")),
    }


@pytest.mark.slow
def test_spark_makes_the_index_that_this_process_makes(spark, shards, loaded, tmp_path):
    source = find_images(str(shards))
    for name, options in (("here", OPTIONS), ("spark", ON_SPARK)):
        index.build_index(source, loaded, tmp_path / name, options, "IVF4,Flat")
    here, there = contents(tmp_path / "here"), contents(tmp_path / "spark")
    np.testing.assert_allclose(there.pop("vectors"), here.pop("vectors"), atol=1e-3)  # as many threads as Spark gives
    assert there == here
    assert len(here["thumbnails"]) == 33 and all(here["thumbnails"])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_partitions_it_began_with(spark, shards, loaded, tmp_path, monkeypatch):
    source, output = find_images(str(shards)), tmp_path / "index"
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(index, "build_faiss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        index.build_index(source, loaded, output, ON_SPARK, "Flat")
    done = tmp_path / ".index.building" / "done"
    (done / "000001.json").unlink()
    monkeypatch.setattr("open_clip_idplugin.retrieval.index.embed_on_spark.embed_on_spark", None)
    card = index.build_index(source, loaded, output, replace(OPTIONS, workers=5), "Flat")
    assert card.partitions == (16, 9, 8) and card.images == 33
    assert all(Thumbnails(output, card.partitions).get(range(33)))


@pytest.mark.slow
def test_what_a_worker_refuses_arrives_as_its_sentence(spark, shards, loaded, tmp_path, monkeypatch):
    source = find_images(str(shards))
    hidden = replace(source, shards=tuple(replace(shard, path=Path(f"{shard.path}.gone")) for shard in source.shards))
    monkeypatch.setattr(type(source), "describe", lambda self: {})
    with pytest.raises(IdClipError, match=r"^one of Spark's machines has no '.*gone'") as caught:
        index.build_index(hidden, loaded, tmp_path / "index", ON_SPARK)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_what_a_machine_lacks_is_one_sentence(shards, loaded, tmp_path):
    source = find_images(str(shards))
    with pytest.raises(IdClipError, match="needs --checkpoint"):
        index.build_index(source, replace(loaded, checkpoint=None), tmp_path / "index", ON_SPARK)
    job = embed_on_spark._job(source, loaded, OPTIONS, open_partitions(source, tmp_path, OPTIONS))
    for lacking in (replace(job, image_tower="another"), replace(job, weights="another")):
        with pytest.raises(IdClipError, match="holds other weights on one of Spark's machines"):
            embed_on_spark.embed_partitions([0], lacking)
    with pytest.raises(IdClipError, match="pictures and output must lie on storage that all machines share"):
        embed_on_spark.embed_partitions([0], replace(job, folder=tmp_path / "elsewhere"))


def test_a_worker_embeds_what_is_left_as_this_process_does(shards, loaded, tmp_path):
    source = find_images(str(shards))
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "img_emb").mkdir(parents=True)
        (folder / "metadata").mkdir()
    options = replace(OPTIONS, workers=0)
    reports = embed_images(source, loaded, here, options)
    partitions = open_partitions(source, there, options)
    job = embed_on_spark._job(source, loaded, options, partitions)
    embed_on_spark.embed_partitions([0, 3], job)
    assert sorted(partitions.done()) == [0, 3]
    (there / "img_emb" / "img_emb_000003.npy").unlink()
    embed_on_spark.embed_partitions([1, 2, 3, 4], job)
    assert not (there / "img_emb" / "img_emb_000003.npy").exists()  # what is done is not done again
    (there / "done" / "000003.json").unlink()
    embed_on_spark.embed_partitions([3], job)
    assert embed_images(source, loaded, there, options) == reports
    for path in sorted(here.rglob("*")):
        other = there / path.relative_to(here)
        if path.name == FILE_NAME:
            ours, theirs = (Thumbnails(folder, [8, 8, 8, 8, 1]).get(range(33)) for folder in (here, there))
            assert theirs == ours and None not in ours
        elif path.is_file():
            assert other.read_bytes() == path.read_bytes()
    assert not list((there / "done").glob("*.sqlite"))


def test_a_host_that_has_moved_on_is_refused_and_left_alone(monkeypatch):
    from clip_retrieval.clip_inference import distributor

    original = distributor.worker
    with pytest.raises(RuntimeError), embed_on_spark._our_worker():
        assert distributor.worker is embed_on_spark.embed_partitions
        raise RuntimeError
    assert distributor.worker is original
    host_patches.verify(embed_on_spark._ROWS)
    monkeypatch.setattr(distributor.PysparkDistributor, "__call__", lambda self: None)
    with pytest.raises(
        HostMismatchError, match=r"PysparkDistributor\.__call__ .* no longer works as the plugin expects"
    ):
        host_patches.verify(embed_on_spark._ROWS)


def test_unknown_distributors_are_one_sentence(shards, tmp_path):
    with pytest.raises(IdClipError, match="sequential or pyspark, not 'slurm'"):
        index.index(str(shards), MODEL, str(tmp_path / "index"), distributor="slurm")
