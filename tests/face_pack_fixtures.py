"""Face packs of a few kilobytes that the real insightface loads: hand-made graphs that keep its ONNX contracts.

The detector takes every magenta square of 32 x 32 pixels on the 32-pixel grid for a face; the recogniser embeds the
mean colours of a 4 x 4 grid of the crop by a fixed random matrix.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MAGENTA = (255, 0, 255)
STRIDES = (8, 16, 32)
# ArcFace's reference points in units of the 112-pixel crop: the toy face's landmarks fill its square the same way.
REFERENCE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]]) / 112


def toy_picture(*corners: tuple[int, int], size: int = 192) -> np.ndarray:
    """A grey RGB picture with a face at each corner (x, y), both multiples of 32."""
    picture = np.full((size, size, 3), 90, np.uint8)
    for number, (x, y) in enumerate(corners):
        picture[y : y + 32, x : x + 32] = MAGENTA
        picture[y + 24 : y + 26, x + 4 * number : x + 4 * number + 3] = 30  # so that no two faces are alike
    return picture


def write_detector(path: Path, landmarks: np.ndarray = REFERENCE, outputs: int = 9) -> Path:
    """SCRFD contract: 9 outputs (6: without landmarks), strides 8, 16, 32, two anchors, dynamic sides."""
    nodes, initialisers, scores, boxes, points = [], [], [], [], []
    for stride in STRIDES:
        pooled = f"pooled{stride}"
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [pooled], kernel_shape=[stride, stride], strides=[stride, stride]
            )
        )
        # red - green + blue is 3 for magenta (inputs lie in [-1, 1]); small strides and the second anchor never fire
        fires = -1e3 if stride != 32 else -45.0
        weight = np.zeros((2, 3, 1, 1), np.float32)
        weight[0, :, 0, 0] = (20, -20, 20) if stride == 32 else 0
        scores.append(_head(nodes, initialisers, pooled, f"score{stride}", weight, np.array([fires, -1e3]), True))
        box = np.array([0, 0, 1, 1] * 2, np.float32)
        boxes.append(_head(nodes, initialisers, pooled, f"box{stride}", np.zeros((8, 3, 1, 1), np.float32), box))
        flat = np.tile(np.asarray(landmarks, np.float32).reshape(-1), 2)
        points.append(_head(nodes, initialisers, pooled, f"point{stride}", np.zeros((20, 3, 1, 1), np.float32), flat))
    names = [*scores, *boxes, *points][:outputs]
    widths = [1] * 3 + [4] * 3 + [10] * 3
    graph = helper.make_graph(
        nodes,
        "toy detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["cells", w]) for n, w in zip(names, widths)],
        initialisers,
    )
    return _save(graph, path)


def _head(nodes, initialisers, source, name, weight, bias, sigmoid=False) -> str:
    """A 1 x 1 convolution whose output is laid out [rows * columns * anchors, width]."""
    width = len(bias) // 2
    initialisers.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}_weight"))
    initialisers.append(numpy_helper.from_array(np.asarray(bias, np.float32), f"{name}_bias"))
    initialisers.append(numpy_helper.from_array(np.array([-1, width], np.int64), f"{name}_shape"))
    nodes.append(helper.make_node("Conv", [source, f"{name}_weight", f"{name}_bias"], [f"{name}_map"]))
    nodes.append(helper.make_node("Transpose", [f"{name}_map"], [f"{name}_rows"], perm=[0, 2, 3, 1]))
    flat = f"{name}_flat" if sigmoid else name
    nodes.append(helper.make_node("Reshape", [f"{name}_rows", f"{name}_shape"], [flat]))
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", [flat], [name]))
    return name


def write_recogniser(
    path: Path, size: int = 512, batch: int | str = "batch", side: int = 112, scale: float = 1.0, seed: int = 0
) -> Path:
    """ArcFace contract: [N, 3, side, side] -> [N, size]; an int `batch` fixes N."""
    matrix = scale * np.random.default_rng(seed).standard_normal((48, size)).astype(np.float32)
    kernel = [side // 4, side // 4]
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["data"], ["grid"], kernel_shape=kernel, strides=kernel),
            helper.make_node("Flatten", ["grid"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
        ],
        "toy recogniser",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, size])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    return _save(graph, path)


def write_gender_age(path: Path, answer: tuple[float, float, float] = (0.1, 0.9, 0.42)) -> Path:
    """Gender and age contract: a 96-pixel input, three outputs (female, male, age / 100); by default a man of 42."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "zero", "answer"], ["output"]),
        ],
        "toy gender and age",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 96, 96])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(np.zeros((3, 3), np.float32), "zero"),
            numpy_helper.from_array(np.array(answer, np.float32), "answer"),
        ],
    )
    return _save(graph, path)


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8  # what opset 13 came with: older runtimes load it too
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_pack(folder: Path, **recogniser) -> Path:
    """A detector and a recogniser (`write_recogniser`'s options) in `folder`."""
    write_detector(folder / "det.onnx")
    write_recogniser(folder / "rec.onnx", **recogniser)
    return folder


def write_yunet(folder: Path, name: str = "face_detection_yunet_2023mar.onnx", without: str = "") -> Path:
    """YuNet contract of OpenCV 4.11: raw BGR in; for strides 8, 16, 32 class and objectness scores, boxes (centre from
    the cell's corner and logarithm of the size, in strides) and five landmarks. Finds the same squares as the detector
    above; `without` leaves an output out.
    """
    nodes, initialisers, outputs = [], [], []

    def head(kind: str, stride: int, weight: np.ndarray, bias: np.ndarray, sigmoid: bool = False) -> None:
        name, width = f"{kind}_{stride}", len(bias)
        initialisers.append(
            numpy_helper.from_array(weight.reshape(width, 3, 1, 1).astype(np.float32), f"{name}_weight")
        )
        initialisers.append(numpy_helper.from_array(np.asarray(bias, np.float32), f"{name}_bias"))
        initialisers.append(numpy_helper.from_array(np.array([1, -1, width], np.int64), f"{name}_shape"))
        conv = [f"pooled_{stride}", f"{name}_weight", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", conv, [f"{name}_map"], kernel_shape=[1, 1]))
        nodes.append(helper.make_node("Transpose", [f"{name}_map"], [f"{name}_rows"], perm=[0, 2, 3, 1]))
        flat = f"{name}_flat" if sigmoid else name
        nodes.append(helper.make_node("Reshape", [f"{name}_rows", f"{name}_shape"], [flat]))
        if sigmoid:
            nodes.append(helper.make_node("Sigmoid", [flat], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "cells", width]))

    for stride in STRIDES:
        window = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["input"], [f"pooled_{stride}"], **window))
        fires = (
            np.array([0.1, -0.1, 0.1]) if stride == 32 else np.zeros(3)
        )  # 51 for magenta, below 40 for all else here
        head("cls", stride, fires, np.array([-45.0 if stride == 32 else -1e3]), sigmoid=True)
        head("obj", stride, np.zeros(3), np.array([10.0]), sigmoid=True)
        head("bbox", stride, np.zeros((4, 3)), np.array([0.5, 0.5, 0, 0]))
        head("kps", stride, np.zeros((10, 3)), REFERENCE.reshape(-1))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    outputs = [output for output in outputs if output.name != without]
    return _save(helper.make_graph(nodes, "toy YuNet", [image], outputs, initialisers), folder / name)


def write_sface(folder: Path, name: str = "face_recognition_sface_2021dec.onnx", seed: int = 0) -> Path:
    """SFace contract: raw RGB [1, 3, 112, 112] in, scaled by the graph itself, [1, 128] out."""
    matrix = np.random.default_rng(seed).standard_normal((48, 128)).astype(np.float32)
    constants = {"mean": np.float32([127.5]), "scale": np.float32([1 / 128]), "matrix": matrix}
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["data", "mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
            helper.make_node("AveragePool", ["scaled"], ["grid"], kernel_shape=[28, 28], strides=[28, 28]),
            helper.make_node("Flatten", ["grid"], ["flat"]),
            helper.make_node("Gemm", ["flat", "matrix"], ["fc1"]),
        ],
        "toy SFace",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 128])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return _save(graph, folder / name)
