"""Registry of face models: name -> addresses, sizes, SHA-256 and licence, as their own projects publish them.

OpenCV's hashes are those of the Git LFS pointers in its model zoo; insightface's are the digests of its release's assets.
A model whose hash nobody has published is not listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_ZOO = "opencv/opencv_zoo"
_ZOO_REVISION = "47534e27c9851bb1128ccc0102f1145e27f23f98"
_LICENCE_REVISION = "966be4cb6eefc2a4f586ed0581bf4bbaa2533070"
_WEIGHTS = f"https://media.githubusercontent.com/media/{_ZOO}/{_ZOO_REVISION}/models"  # what Git LFS keeps
_TEXTS = f"https://raw.githubusercontent.com/{_ZOO}/{_LICENCE_REVISION}/models"
_PACKS = "https://github.com/deepinsight/insightface/releases/download/model-zoo"
_RESEARCH = "non-commercial research only"
_TERMS = "https://github.com/deepinsight/insightface#license"


@dataclass(frozen=True)
class ModelFile:
    """One file to fetch: its name on the disk (and on a mirror), address, size in bytes and SHA-256."""

    name: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class FaceModel:
    """What `idclip models get NAME` fetches.

    spec: the face engine that the folder then is. archive: the one file is a zip of the folder's files. terms: where the
    licence stands; given when it must be accepted first.
    """

    name: str
    spec: str
    about: str
    licence: str
    files: tuple[ModelFile, ...]
    archive: bool = False
    terms: str | None = None

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.files)

    @property
    def command(self) -> str:
        """The command that fetches it."""
        return f"idclip models get {self.name}{' --accept_licence' if self.terms else ''}"


def _pack(name: str, about: str, size: int, sha256: str) -> FaceModel:
    file = ModelFile(f"{name}.zip", f"{_PACKS}/{name}.zip", size, sha256)
    return FaceModel(name, f"insightface:{name}", about, _RESEARCH, (file,), archive=True, terms=_TERMS)


_OPENCV = FaceModel(
    "opencv",
    "opencv:default",
    "YuNet finds, SFace embeds in 128 numbers",
    "MIT (YuNet) and Apache 2.0 (SFace)",
    (
        ModelFile(
            "face_detection_yunet_2026may.onnx",
            f"{_WEIGHTS}/face_detection_yunet/face_detection_yunet_2026may.onnx",
            229_738,
            "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
        ),
        ModelFile(
            "face_recognition_sface_2021dec.onnx",
            f"{_WEIGHTS}/face_recognition_sface/face_recognition_sface_2021dec.onnx",
            38_696_353,
            "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        ),
        ModelFile(
            "face_detection_yunet.LICENSE",
            f"{_TEXTS}/face_detection_yunet/LICENSE",
            1_085,
            "c83b8120c50ccbd4c4f96edf53141bdd566ebb8f8e9227e415326aa1b1aba958",
        ),
        ModelFile(
            "face_recognition_sface.LICENSE",
            f"{_TEXTS}/face_recognition_sface/LICENSE",
            11_358,
            "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
        ),
    ),
)

MODELS: Mapping[str, FaceModel] = {
    model.name: model
    for model in (
        _OPENCV,
        _pack(
            "buffalo_l",
            "SCRFD 10 GF, ResNet-50: 512 numbers; gender, age",
            288_621_354,
            "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        ),
        _pack(
            "buffalo_m",
            "SCRFD 2.5 GF, ResNet-50: 512 numbers; gender, age",
            275_951_529,
            "d98264bd8f2dc75cbc2ddce2a14e636e02bb857b3051c234b737bf3b614edca9",
        ),
        _pack(
            "buffalo_s",
            "SCRFD 500 MF, MobileFaceNet: 512 numbers; gender, age",
            127_607_557,
            "d85a87f503f691807cd8bb97128bdf7a0660326cd9cd02657127fa978bab8b5e",
        ),
        _pack(
            "buffalo_sc",
            "SCRFD 500 MF, MobileFaceNet: 512 numbers",
            14_969_382,
            "57d31b56b6ffa911c8a73cfc1707c73cab76efe7f13b675a05223bf42de47c72",
        ),
        _pack(
            "antelopev2",
            "SCRFD 10 GF, ResNet-100: 512 numbers; gender, age",
            360_662_982,
            "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
        ),
    )
}


def how_to_get(name: str) -> str:
    """The end of a sentence about a model that is missing: the one command that gets it, or the free one."""
    model = MODELS.get(name)
    if model is None:
        return f"`idclip models` lists what can be fetched, and `{_OPENCV.command}` fetches a free one"
    return f"`{model.command}` fetches it ({model.size / 1e6:.0f} MB, {model.licence})"
