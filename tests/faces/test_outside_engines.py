"""Face engines of other packages: functions of modules and entry points, in this process and in spawned workers."""

import os
import shutil
import subprocess
import sys
from importlib import metadata

import numpy as np
import outside_engine_fixtures as ours
import pytest
from face_pack_fixtures import toy_picture, write_pack
from PIL import Image
from places import ROOT

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import EngineInvalid, EngineUnknown, load_face_engine
from open_clip_idplugin.faces.alignment import cut_box
from open_clip_idplugin.faces.errors import EmbeddingBroken
from open_clip_idplugin.faces.face_table import load_face_table

MODULE = "outside_engine_fixtures"


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("packs") / "toy")


class TestSpecs:
    @pytest.mark.parametrize("spec", [f"{MODULE}:Both", f"{MODULE}:pair", f"{MODULE}:detector+{MODULE}:encoder"])
    def test_both_parts(self, spec):
        """One object, a pair, or two functions; the encoder's own alignment is used."""
        engine = load_face_engine(spec)
        picture = toy_picture((64, 96))
        (face,) = engine.detect(picture)
        assert face.box.tolist() == [64, 96, 96, 128] and engine.model_id == "colours:plain-0123456789ab"
        np.testing.assert_array_equal(face.crop, cut_box(picture, face.box, 40, 0.0))
        grid = face.crop.reshape(2, 20, 2, 20, 3).mean((1, 3)).ravel()
        np.testing.assert_allclose(face.embedding, grid / np.linalg.norm(grid), atol=1e-5)

    def test_a_name_and_options_are_handed_on(self):
        engine = load_face_engine(f"{MODULE}:pair:./weights:v2.bin", det_size=96, threads=2)
        assert engine.model_id == "colours:./weights:v2.bin-0123456789ab"
        assert (engine._detector.options.det_size, engine._detector.options.threads) == (96, 2)

    def test_beside_the_kinds_that_are_here(self, pack):
        mixed = load_face_engine(f"insightface:{pack}+{MODULE}:encoder", det_size=192)
        assert mixed.detect(toy_picture((64, 96)))[0].embedding.shape == (12,)
        other = load_face_engine(f"{MODULE}:detector+insightface:{pack}")
        assert other.detect(toy_picture((64, 96)))[0].crop.shape == (112, 112, 3)  # five landmarks, the default

    def test_a_known_place_is_cut_in_the_same_way(self, pack):
        picture = toy_picture((64, 96))
        for spec in (f"{MODULE}:Both", f"insightface:{pack}"):
            engine = load_face_engine(spec, det_size=192)
            (face,) = engine.detect(picture)
            crop = engine.crop_at(picture, face.box, face.landmarks)
            np.testing.assert_array_equal(crop, face.crop)
            np.testing.assert_allclose(engine.embed_crops([crop])[0], face.embedding, atol=1e-6)
            assert engine.crop_at(picture, face.box * np.nan, face.landmarks * np.nan) is None

    def test_batches(self):
        """Nine crops at four a call, in order."""
        engine = load_face_engine(f"{MODULE}:Both")
        pictures = [toy_picture((32 * (n % 5), 32)) for n in range(9)]
        for faces, picture in zip(engine.detect_many(pictures), pictures):
            np.testing.assert_allclose(faces[0].embedding, engine.detect(picture)[0].embedding)

    def test_the_licence_of_an_encoder_is_said(self, capsys):
        load_face_engine(f"{MODULE}:pair:licensed")
        assert (
            "Face encoder 'colours:licensed-0123456789ab': its licence: that of these tests." in capsys.readouterr().err
        )


class TestEntryPoints:
    @pytest.fixture
    def installed(self, monkeypatch):
        points = [
            metadata.EntryPoint("acme", f"{MODULE}:pair", "open_clip_idplugin.face_engines"),
            metadata.EntryPoint("broken", "no_such_module:load", "open_clip_idplugin.face_engines"),
        ]
        monkeypatch.setattr("open_clip_idplugin.faces.outside_engines.entry_points", lambda group: points)

    def test_by_name(self, installed):
        assert load_face_engine("acme:large").model_id == "colours:large-0123456789ab"
        assert load_face_engine("acme:").model_id == load_face_engine("acme").model_id == "colours:plain-0123456789ab"
        assert load_face_engine(f"{MODULE}:detector+acme:large").model_id == "colours:large-0123456789ab"

    def test_a_broken_package(self, installed):
        with pytest.raises(EngineInvalid, match="entry point 'no_such_module:load' names, cannot be imported"):
            load_face_engine("broken:x")

    def test_a_package_that_is_installed(self, tmp_path, monkeypatch):
        """What pip writes: a folder with entry_points.txt beside the module."""
        folder = tmp_path / "acme-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[open_clip_idplugin.face_engines]\nacme2 = {MODULE}:pair\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert load_face_engine("acme2:x").model_id == "colours:x-0123456789ab"


class TestRefusals:
    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            (
                "insihgtface:buffalo_l",
                "Unknown face engine 'insihgtface:buffalo_l': there is no kind and no Python module",
            ),
            ("no.such.module:load", "no Python module 'no.such.module'"),
            ("open_clip_idplugin.nothing:load", "no Python module 'open_clip_idplugin.nothing'"),
            (f"{MODULE}:nothing", f"The module '{MODULE}' has no function 'nothing'"),
            (f"{MODULE}:number", "has no function 'number'"),
            (f"{MODULE}:encoder", "has no detector: its outside_engine_fixtures.MeanColours lacks detect"),
            (
                f"{MODULE}:detector",
                r"has no encoder: its outside_engine_fixtures.BrightSquares lacks encode\(crops\), model_id",
            ),
            (f"{MODULE}:nearly", "lacks embedding_size: int, crop_size: int, batch: int, fixed_batch: bool; see"),
            (f"{MODULE}:failing:weights.bin", r"cannot be made \(RuntimeError: no weights in weights.bin\)"),
        ],
    )
    def test_a_sentence(self, spec, words):
        with pytest.raises(EngineInvalid, match=words) as refused:
            load_face_engine(spec)
        assert "\n" not in str(refused.value) and isinstance(refused.value, IdClipError)

    @pytest.mark.parametrize("spec", ["a b:c", "mod:fun ction", "module.:f", "1module:f", "m:1", "sys"])
    def test_no_spec_at_all(self, spec):
        with pytest.raises(EngineUnknown, match="<module>:<function>, or <detector>"):
            load_face_engine(spec)

    def test_modules_that_fail(self, tmp_path, monkeypatch):
        (tmp_path / "lacks_another.py").write_text("import not_installed_anywhere\n")
        (tmp_path / "raises.py").write_text("1 / 0\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(EngineInvalid, match=r"'lacks_another' .* needs 'not_installed_anywhere'"):
            load_face_engine("lacks_another:load")
        with pytest.raises(EngineInvalid, match=r"'raises' .* cannot be imported .ZeroDivisionError"):
            load_face_engine("raises:load")

    @pytest.mark.parametrize(
        ("where", "kind", "words"),
        [
            ("landmarks", EngineInvalid, r"landmarks of \[3, 2\], not \[4\] and \[5, 2\]"),
            ("crop", EngineInvalid, r"cut a crop of \[9, 9, 3\] uint8, not \[40, 40, 3\] uint8"),
            ("rows", EmbeddingBroken, r"numbers of the shape \[1, 5\] for 1 crops, not 12 for each"),
        ],
    )
    def test_shapes_are_checked(self, where, kind, words):
        with pytest.raises(kind, match=words):
            load_face_engine(f"{MODULE}:WrongShapes:{where}").detect(toy_picture((64, 96)))


def test_workers_load_it_too(tmp_path):
    """`idclip faces` with a module on PYTHONPATH: spawned workers import it by its name."""
    (tmp_path / "modules").mkdir()
    shutil.copy(ours.__file__, tmp_path / "modules" / "my_engine.py")
    pictures, processes = tmp_path / "pictures", tmp_path / "processes"
    pictures.mkdir()
    processes.mkdir()
    for number in range(4):
        Image.fromarray(toy_picture((32 * number, 32))).save(pictures / f"{number}.png")
    paths = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "IDCLIP_TEST_PROCESSES": str(processes)}
    command = [
        sys.executable,
        "-c",
        "from open_clip_idplugin.cli import main; main()",
        "faces",
        "--input",
        str(pictures),
        "--min_face",
        "8",
    ]
    command += [
        "--output",
        str(tmp_path / "table"),
        "--workers",
        "2",
        "--pictures_per_part",
        "1",
        "--faces",
        "my_engine:pair",
    ]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    table = load_face_table(tmp_path / "table")
    assert table.model_id == "colours:plain-0123456789ab" and len(table) == 4
    here = load_face_engine(f"{MODULE}:pair")
    for row in table.rows():
        (face,) = here.detect(pictures / row.path)
        np.testing.assert_array_equal(table.embeddings[row.embedding_row], face.embedding)
    assert len(list(processes.iterdir())) >= 2  # the parent, and workers of their own


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    """As it stands there, saved and used."""
    from skimage import data

    text = (ROOT / "docs" / "face_engines.md").read_text(encoding="utf-8")
    (tmp_path / "my_faces.py").write_text(text.split("```python\n# my_faces.py\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    engine = load_face_engine("my_faces:load")
    face = engine.the_face(data.astronaut(), "largest")
    assert face.crop.shape == (64, 64, 3) and len(face.embedding) == engine.embedding_size
    assert 150 < face.box[0] < face.box[2] < 350 and 50 < face.box[1] < face.box[3] < 250
