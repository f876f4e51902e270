"""The swappers behind one interface: a name -> something that puts the face of one picture into another.

Role: what a swapper is given and must give back, and the registry of those known. A third party adds one with
`register_swapper`, or names a factory on the command line as `package.module:function`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from open_clip_idplugin.errors import IdClipError


@dataclass(frozen=True, eq=False)
class FaceInPicture:
    """A face and the picture that shows it.

    picture    [H, W, 3] uint8 RGB
    landmarks  [5, 2] float32 pixels: left eye, right eye, nose, left and right mouth corner as seen in the picture
    box        [4] float32 pixels: x0, y0, x1, y1 of the face
    embedding  [D] float32 of length 1, by the face engine of the run
    skin       [3] float32, the person's skin in Lab: the middle over their photos, which differ in light; None of a target
    """

    picture: np.ndarray
    landmarks: np.ndarray
    box: np.ndarray
    embedding: np.ndarray
    skin: np.ndarray | None = None


KEEP_SKIN = 0.25  # of --keep-skin: on real photographs more begins to show where the face ends


@dataclass(frozen=True)
class SwapperSettings:
    """What a factory may need; it goes to every worker process."""

    model: Path | None = None  # the file of --swapper-model
    threads: int = 1
    keep_skin: float = (
        KEEP_SKIN  # share of the identity's own skin colour that stays, 0 to 1, where a swapper can choose
    )
    whole_face: bool = (
        False  # swap hair and background within the face's edge too: of drawn faces, that have sharp edges
    )


class Swapper(Protocol):
    """Puts a face into a picture.

    `digital_source_type` is the IPTC code (see `marking`) that tells what the pictures it makes are.
    """

    digital_source_type: str

    def swap(self, target: FaceInPicture, source: FaceInPicture) -> np.ndarray:
        """Return the target's picture, [H, W, 3] uint8 RGB, with the source's face; nothing but the face may change.

        The inputs stay as they are, and the same inputs give the same pixels. Raises ValueError (best: SwapFailed of
        `geometry`) when this pair cannot be swapped.
        """
        ...


SwapperFactory = Callable[[SwapperSettings], Swapper]
_factories: dict[str, SwapperFactory] = {}


def register_swapper(name: str, factory: SwapperFactory) -> None:
    """Make `factory` known as `--swapper NAME`; it must be importable (worker processes are spawned).

    Raises IdClipError for a name that is taken or cannot be one.
    """
    if not name.isidentifier():
        raise IdClipError(f"a swapper cannot be called {name!r}; use letters, digits and underscores")
    if name in _factories:
        raise IdClipError(f"there is already a swapper {name!r}; choose another name")
    _factories[name] = factory


def unregister_swapper(name: str) -> None:
    """Take a registered swapper back (tests)."""
    _factories.pop(name, None)


def find_factory(name: str) -> SwapperFactory:
    """Return the factory that `--swapper NAME` means: a registered name or `package.module:function`.

    Raises IdClipError when there is none.
    """
    if name in _factories:
        return _factories[name]
    module, separator, function = name.partition(":")
    if not separator:
        known = ", ".join(sorted(_factories))
        raise IdClipError(f"there is no swapper {name!r}; choose one of {known}, or package.module:function")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise IdClipError(f"the swapper {name} cannot be imported ({error})") from None


def _create_blend(settings: SwapperSettings) -> Swapper:
    from webdataset_tools.faceswap.blend import BlendSwapper

    return BlendSwapper(settings.keep_skin, settings.whole_face)


def _create_inswapper(settings: SwapperSettings) -> Swapper:
    from webdataset_tools.faceswap.inswapper import load_inswapper

    return load_inswapper(settings.model, settings.threads)


register_swapper("blend", _create_blend)
register_swapper("inswapper", _create_inswapper)
