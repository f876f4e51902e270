"""The swappers behind one interface (`swapper`): a name -> something that puts the face of one picture into another.

Role: the registry of those known. A third party adds one with
`register_swapper`, or names a factory on the command line as `package.module:function`.
"""

import importlib
from collections.abc import Callable

from open_clip_idplugin.errors import IdClipError
from webdataset_tools.faceswap.swapper import KEEP_SKIN as KEEP_SKIN
from webdataset_tools.faceswap.swapper import FaceInPicture as FaceInPicture
from webdataset_tools.faceswap.swapper import Swapper as Swapper
from webdataset_tools.faceswap.swapper import SwapperSettings as SwapperSettings

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
