"""How a face engine runs, whatever its kind: what every function that loads one is given."""

from dataclasses import dataclass

from open_clip_idplugin.errors import IdClipError

_MOST_SIDE = 8192  # a detector's input of this side takes 800 MB


@dataclass(frozen=True)
class EngineOptions:
    """Options of `load_face_engine`.

    det_size: side of the square in which the detector sees a picture, in pixels; None: the engine's own.
    providers: of onnxruntime; None: CUDA where it is available, else the CPU. threads: of one call; None: the host's.
    """

    det_size: int | None = None
    providers: tuple[str, ...] | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.det_size is not None and (not 64 <= self.det_size <= _MOST_SIDE or self.det_size % 32):
            raise IdClipError(
                f"det_size {self.det_size} does not fit the detector; give a multiple of 32 from 64 to {_MOST_SIDE}."
            )
        if self.threads is not None and self.threads < 1:
            raise IdClipError(f"threads must be at least 1, got {self.threads}.")
