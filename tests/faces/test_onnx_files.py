"""ONNX files whose weights lie in other files: beside them they are read, anywhere else nothing is opened."""

import pytest

pytest.importorskip("onnx")

import onnx
from face_pack_fixtures import toy_picture, write_pack
from onnx import TensorProto, helper

from open_clip_idplugin.faces import PackInvalid, load_face_engine
from open_clip_idplugin.faces.onnx_files import model_files, read_graph


@pytest.fixture
def pack(tmp_path):
    """A pack whose recogniser keeps its weights in weights.bin."""
    folder = write_pack(tmp_path / "pack")
    path = next(folder.glob("rec*.onnx"))
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder, path


def lead_to(path, place: str) -> None:
    """Let every tensor of a file be in `place`."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    path.write_bytes(model.SerializeToString())


def test_weights_beside_the_file_are_its_own(pack):
    folder, path = pack
    assert model_files(path) == [path, folder / "weights.bin"] and read_graph(path).initializer
    (face,) = load_face_engine(f"insightface:{folder}", det_size=192).detect(toy_picture((64, 64)))
    assert face.embedding is not None


@pytest.mark.parametrize("place", ["../secret.bin", "{outside}", "sub/../../secret.bin", "link.bin", "gone.bin", "."])
def test_weights_elsewhere_are_refused(pack, tmp_path, place):
    folder, path = pack
    secret = (folder / "weights.bin").rename(tmp_path / "secret.bin")
    (folder / "link.bin").symlink_to(secret)
    lead_to(path, place.format(outside=secret))
    with pytest.raises(PackInvalid, match=r"keeps tensors in .*, which is no file beside it"):
        load_face_engine(f"insightface:{folder}", det_size=192)


def test_tensors_of_nodes_and_inner_graphs_are_looked_at_too(tmp_path):
    def constant(place: str):
        tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=place)
        return helper.make_node("Constant", [], ["c"], value=tensor)

    value = helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])
    inner = helper.make_graph([constant("../../secret")], "inner", [], [value])
    choice = helper.make_node("If", ["condition"], ["c"], then_branch=inner, else_branch=inner)
    for name, node in {"outer.onnx": constant("../secret"), "inner.onnx": choice}.items():
        model = helper.make_model(helper.make_graph([node], "graph", [], [value]))
        (tmp_path / name).write_bytes(model.SerializeToString())
        with pytest.raises(PackInvalid, match=r"keeps tensors in \S+secret, which is no file beside it"):
            read_graph(tmp_path / name)
