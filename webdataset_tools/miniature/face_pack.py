"""Trained face networks -> a folder that insightface loads as a model pack (ONNX, SHA-256 manifest, licence)."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from open_clip_idplugin.storage.atomic import atomic_path, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.miniature.face_nets import CROP_SIZE, EMBEDDING_SIZE, STRIDES, Detector, Recogniser

DETECTOR_FILE, RECOGNISER_FILE = "detector.onnx", "recogniser.onnx"
DET_SIZE = 192  # the square that the detector was trained to see pictures in
_OPSET = 13
_LICENCE = """Face detector and recogniser of open-clip-idplugin's miniature world
====================================================================

These weights were trained on drawn faces of invented people alone; no photograph of a person was used. They come under
the licence of open-clip-idplugin itself (MIT). They recognise drawn faces and nothing else: on photographs they are of
no use.
"""


def write_pack(folder: Path, detector: Detector, recogniser: Recogniser) -> None:
    """Write detector.onnx, recogniser.onnx, MODEL.LICENSE and, last, manifest.json (which insightface checks)."""
    _export(detector, torch.zeros(1, 3, DET_SIZE, DET_SIZE), folder / DETECTOR_FILE, _detector_axes())
    axes = {"crops": {0: "batch"}, "embeddings": {0: "batch"}}
    _export(recogniser, torch.zeros(2, 3, CROP_SIZE, CROP_SIZE), folder / RECOGNISER_FILE, axes)
    atomic_write(folder / "MODEL.LICENSE", _LICENCE)
    atomic_write(folder / "manifest.json", json_text(_manifest(folder), indent=1) + "\n")


def write_metrics(folder: Path, metrics: dict[str, object]) -> None:
    """Write what `face_measures.measure_pack` found, and how the pack was trained, to metrics.json."""
    atomic_write(folder / "metrics.json", json_text(metrics, indent=1) + "\n")


def _detector_axes() -> dict[str, dict[int, str]]:
    """Names of the nine outputs in SCRFD's order and of the axes that follow the picture's size."""
    axes = {"picture": {2: "height", 3: "width"}}
    for kind in ("scores", "boxes", "landmarks"):
        axes |= {f"{kind}{stride}": {0: f"cells{stride}"} for stride in STRIDES}
    return axes


def _export(net: nn.Module, example: torch.Tensor, target: Path, axes: dict[str, dict[int, str]]) -> None:
    """Write an ONNX graph whose input and outputs are called as `axes` lists them, input first."""
    names = list(axes)
    with atomic_path(target) as temporary:
        torch.onnx.export(
            net.eval().to(memory_format=torch.contiguous_format),
            (example,),
            temporary,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )


def _manifest(folder: Path) -> dict[str, object]:
    def entry(name: str, **more: object) -> dict[str, object]:
        return {"file": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(), **more}

    return {
        "manifest_version": 2,
        "model_id": "miniature_faces",
        "display_name": "Drawn faces of open-clip-idplugin's miniature world",
        "license": "MODEL.LICENSE",
        "det_size": DET_SIZE,
        "tasks": {
            "detection": entry(DETECTOR_FILE),
            "recognition": entry(RECOGNISER_FILE, input_size=[CROP_SIZE] * 2, embedding_dimension=EMBEDDING_SIZE),
        },
    }
