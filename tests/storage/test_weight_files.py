"""Weights from strangers: real files that run code where they are loaded carelessly, and none does here."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from weight_file_fixtures import Touch, openai_archive, pickle_before, with_data_pickle

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.weight_files import (
    ARCHIVE,
    PICKLE,
    SAFETENSORS,
    TORCHSCRIPT,
    kind_of,
    load_tensors,
    weight_shapes,
)

pytestmark = pytest.mark.host

STATE = {"visual.conv1.weight": torch.arange(12.0).reshape(3, 4), "text_projection": torch.ones(2, 2).half()}


def readers():
    """Every way in which a checkpoint comes into this project."""
    import open_clip

    from open_clip_idplugin.checkpoints.loading import load_model, read_weights

    return {
        "load_tensors": load_tensors,
        "weight_shapes": weight_shapes,
        "read_weights": read_weights,
        "load_model": lambda path: load_model("ViT-B-32", str(path)),
        "open_clip": lambda path: open_clip.create_model("ViT-B-32", pretrained=str(path)),
    }


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "mark"


def evil_torchscript(tmp_path: Path, mark: Path) -> Path:
    return openai_archive(STATE, tmp_path / "evil.pt", evil=str(mark))


def pickle_with_archive(tmp_path: Path, mark: Path) -> Path:
    return pickle_before(openai_archive(STATE, tmp_path / "archive.pt"), mark, tmp_path / "polyglot.pt")


def pickle_with_plain_archive(tmp_path: Path, mark: Path) -> Path:
    torch.save(STATE, tmp_path / "archive.pt")
    return pickle_before(tmp_path / "archive.pt", mark, tmp_path / "polyglot.pt")


def bare_pickle(tmp_path: Path, mark: Path) -> Path:
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"state_dict": Touch(mark)}, 2))
    return tmp_path / "bare.pt"


def legacy_file(tmp_path: Path, mark: Path) -> Path:
    torch.save(STATE | {"config": Touch(mark)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    return tmp_path / "legacy.pt"


def archive_with_code_in_its_pickle(tmp_path: Path, mark: Path) -> Path:
    torch.save(STATE | {"config": Touch(mark)}, tmp_path / "objects.pt")
    return tmp_path / "objects.pt"


def torchscript_with_code_in_its_pickle(tmp_path: Path, mark: Path) -> Path:
    archive = openai_archive(STATE, tmp_path / "archive.pt")
    return with_data_pickle(archive, pickle.dumps(Touch(mark), 2), tmp_path / "tampered.pt")


def two_archives(tmp_path: Path, mark: Path) -> Path:
    torch.save(STATE, tmp_path / "one.pt")
    other = evil_torchscript(tmp_path, mark)
    (tmp_path / "two.pt").write_bytes((tmp_path / "one.pt").read_bytes() + other.read_bytes())
    return tmp_path / "two.pt"


def archive_in_an_archive(tmp_path: Path, mark: Path) -> Path:
    torch.save(STATE, tmp_path / "one.pt")
    evil = evil_torchscript(tmp_path, mark)
    with zipfile.ZipFile(tmp_path / "one.pt") as source, zipfile.ZipFile(tmp_path / "nested.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("one/inner.pt", evil.read_bytes())
    return tmp_path / "nested.pt"


def under_another_name(tmp_path: Path, mark: Path) -> Path:
    return bare_pickle(tmp_path, mark).rename(tmp_path / "weights.safetensors")


HARMFUL = (
    evil_torchscript, pickle_with_archive, pickle_with_plain_archive, bare_pickle, legacy_file,
    archive_with_code_in_its_pickle, torchscript_with_code_in_its_pickle, two_archives, archive_in_an_archive,
    under_another_name,
)  # fmt: skip


@pytest.mark.parametrize("make", HARMFUL)
def test_nothing_runs_and_every_reader_refuses_in_a_sentence(make, tmp_path, mark):
    path = make(tmp_path, mark)
    for name, read in readers().items():
        with pytest.raises(Exception, match=path.name if name != "open_clip" else None) as caught:
            read(path)
        assert isinstance(caught.value, IdClipError) or name == "open_clip"
        assert not mark.exists(), name


def test_these_files_do_run_where_they_are_loaded_carelessly(tmp_path, mark):
    """Else the test above would show nothing."""
    torch.jit.load(str(evil_torchscript(tmp_path, mark)))
    assert mark.exists()
    for make in (pickle_with_archive, bare_pickle):
        mark.unlink()
        with make(tmp_path, mark).open("rb") as stream:
            pickle.load(stream)
        assert mark.exists()


def test_the_kind_is_told_by_the_first_bytes(tmp_path):
    from safetensors.torch import save_file

    torch.save(STATE, tmp_path / "archive.pt")
    torch.save(STATE, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "weights.safetensors")
    openai_archive(STATE, tmp_path / "openai.pt")
    kinds = {"archive.pt": ARCHIVE, "legacy.pt": PICKLE, "weights.safetensors": SAFETENSORS, "openai.pt": TORCHSCRIPT}
    shapes = {"visual.conv1.weight": (3, 4), "text_projection": (2, 2)}
    for name, kind in kinds.items():
        assert kind_of(tmp_path / name) == kind and weight_shapes(tmp_path / name) == shapes
        tensors = load_tensors(tmp_path / name)
        assert all(
            torch.equal(tensors[key], value) and tensors[key].dtype == value.dtype for key, value in STATE.items()
        )


def lying(key: str) -> bytes:
    """A data.pkl whose one tensor is said to be larger than what is stored, or is somewhere else."""
    stream = io.BytesIO()

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", Storage, key, "cpu", 4) if value is self.storage else None

        def save_global(self, value, name=None):
            module, name = {Storage: ("torch", "FloatStorage"), rebuild: ("torch._utils", "_rebuild_tensor_v2")}.get(
                value, ("__torch__", "Module")
            )
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

        dispatch = pickle._Pickler.dispatch.copy()
        dispatch[type] = save_global
        dispatch[type(lambda: 0)] = save_global

    class Storage: ...

    class Module: ...

    def rebuild(): ...

    class Tensor:
        def __reduce__(self):
            return (rebuild, (pickler.storage, 0, (10**6, 10**6), (0, 0), False, {}))

    module = Module()
    module.weight = Tensor()
    pickler = Pickler(stream, 2)
    pickler.storage = object()
    pickler.dump(module)
    return stream.getvalue()


@pytest.mark.parametrize("key", ["0", "no_such", "../../0"])
def test_tensors_that_lie_about_themselves_are_refused(tmp_path, key):
    archive = openai_archive(STATE, tmp_path / "archive.pt")
    path = with_data_pickle(archive, lying(key), tmp_path / "lying.pt")
    with pytest.raises(IdClipError, match=r"lying\.pt is a TorchScript archive that holds more than a CLIP's tensors"):
        load_tensors(path)


@pytest.mark.parametrize("length", [0, 3, 100, -50])
def test_torn_and_empty_files_are_one_sentence(tmp_path, length):
    from safetensors.torch import save_file

    torch.save(STATE, tmp_path / "archive.pt")
    openai_archive(STATE, tmp_path / "openai.pt")
    save_file(STATE, tmp_path / "weights.safetensors")
    for path in (tmp_path / "archive.pt", tmp_path / "openai.pt", tmp_path / "weights.safetensors"):
        path.write_bytes(path.read_bytes()[:length])
        for read in (load_tensors, weight_shapes):
            with pytest.raises(IdClipError, match=path.name):
                read(path)


def test_safetensors_under_another_name_are_told_apart(tmp_path):
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "weights.bin")
    with pytest.raises(IdClipError, match=r"rename it to weights\.safetensors"):
        weight_shapes(tmp_path / "weights.bin")
    with pytest.raises(IdClipError, match="cannot be read"):
        weight_shapes(tmp_path / "gone.pt")
