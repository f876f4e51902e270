"""Import hook (PEP 302): `import open_clip` -> the same, with the IdCLIP models registered. Copied into an environment.

Role: what every start of its Python runs once `idclip hosts --autoload on` has put it there, so it imports nothing that is not
built in and waits for open_clip. Where the plugin and open_clip do not fit together it warns, and open_clip stays as it is.
"""

import _thread
import sys

HOST = "open_clip"
PLUGIN = "open_clip_idplugin"


class WaitingFinder:
    """A meta path finder that knows open_clip alone, and finds it by the others."""

    def __init__(self):
        self.done = False
        self._asking = set()  # threads that are in `find_spec`: another finder may ask all of them, this one too

    def find_spec(self, name, path=None, target=None):
        """The spec that another finder has, with a loader that registers the models after it."""
        thread = _thread.get_ident()
        if name != HOST or self.done or thread in self._asking:
            return None
        self._asking.add(thread)
        try:
            for finder in [finder for finder in sys.meta_path if finder is not self]:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = RegisteringLoader(spec.loader, self.register)  # type: ignore[assignment]
                    return spec
            return None
        finally:
            self._asking.discard(thread)

    def register(self):
        """Register the models, unless the plugin was imported already: then it registers by itself, and may refuse."""
        if self.done or PLUGIN in sys.modules:
            return
        self.done = True
        try:
            from open_clip_idplugin.hosts.registration import register

            register()
        except Exception as error:  # whatever it is: open_clip must stay importable for everybody
            _warn(
                f"the IdCLIP models are not registered, and open_clip is as without them ({error or type(error).__name__}); "
                f"`idclip hosts --autoload off` ends this, and so does removing {__file__} with the .pth file beside it."
            )


class RegisteringLoader:
    """A loader that calls `after` when its module is whole; otherwise the one that it was made of."""

    def __init__(self, loader, after):
        self._loader = loader
        self._after = after

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        """A new module, or None for Python's own kind."""
        return self._loader.create_module(spec)

    def exec_module(self, module):
        """Run the module, which then has its own loader again."""
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._after()


def wait():
    """Wait for open_clip from now on; a start that reads the `.pth` file twice (lib and lib64) waits once."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def _warn(sentence):
    import warnings

    try:
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # where warnings are errors, this one must not be
        print(sentence, file=sys.stderr)


_FINDER = WaitingFinder()
