"""Start-up hook of an environment (a `.pth` file of Python's `site`): whether every `import open_clip` in it knows the models.

Role: the verb `idclip hosts`; on and off -> two files in the site-packages folder of this Python: `autoload_hook`, copied under a
name of its own so that starting Python imports nothing of this package, and the `.pth` file that runs it.
"""

import contextlib
import importlib.metadata
import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import atomic_write

NAME = "open_clip_idplugin_autoload"
ON, OFF, OTHER, HALF = "on", "off", "on, of another version", "incomplete"

_DISTRIBUTION = "open-clip-idplugin"
_LINE = f"import {NAME}; {NAME}.wait()\n"
_CHOICES = ("on", "off", "status")
_USES = (
    "python -m open_clip_train.main, clip-retrieval inference | index | back --clip_model open_clip:IdCLIP-..., Spark workers "
    "and notebooks of this environment"
)


def hosts(autoload: str = "status") -> None:
    """Let open_clip know the IdCLIP models wherever it is imported in this environment, without importing the plugin.

    Args:
        autoload: on puts a start-up hook into this environment (two small files), off removes it, status says what is there.
    """
    if autoload not in _CHOICES:
        raise IdClipError(f"--autoload is '{autoload}': say on, off or status")
    folder = hook_folder()
    if autoload == "on":
        switch_on(folder)
        print(f"On: {_USES} know the IdCLIP models from their next start.")
        print(f"Written: {', '.join(map(str, _files(folder)))}; `idclip hosts --autoload off` removes them.")
    elif autoload == "off":
        removed = switch_off(folder)
        print(f"Off: removed {', '.join(map(str, removed))}." if removed else f"Off: there was no hook in {folder}.")
    else:
        print(describe(folder))


def hook_folder() -> Path:
    """The folder of this Python whose `.pth` files are read at its start, and to which its packages belong."""
    user = site.getusersitepackages()
    try:
        home = importlib.metadata.distribution(_DISTRIBUTION).locate_file("")
    except importlib.metadata.PackageNotFoundError:
        home = None
    if site.ENABLE_USER_SITE and home is not None and str(home) == user:
        return Path(user)
    return Path(sysconfig.get_path("purelib"))


def state_of(folder: Path) -> str:
    """ON, OFF, OTHER (the files are not those of this version) or HALF (one of the two is missing)."""
    module, start = _files(folder)
    found = module.is_file(), start.is_file()
    if not all(found):
        return HALF if any(found) else OFF
    return ON if module.read_bytes() == _source() and start.read_text() == _LINE else OTHER


def describe(folder: Path) -> str:
    """One sentence about the hook in a folder, with the remedy where it is not as it should be."""
    state, files = state_of(folder), " and ".join(map(str, _files(folder)))
    if state == OFF:
        return (
            f"off: open_clip knows the models where the plugin is imported; `idclip hosts --autoload on` is for {_USES}"
        )
    if state == ON:
        return f"on: every `import open_clip` of {sys.prefix} knows the models, by {files}"
    return (
        f"{state}: {files}; `idclip hosts --autoload on` writes them again, `idclip hosts --autoload off` removes them"
    )


def switch_on(folder: Path) -> None:
    """Write the hook, whole; raises IdClipError where this environment is not one to be written to."""
    _require_own_environment(folder)
    module, start = _files(folder)
    try:
        atomic_write(module, _source())
        atomic_write(start, _LINE)  # last: without the module every start of Python would complain of this line
    except OSError as error:
        raise IdClipError(
            f"the hook cannot be written to {folder} ({error.strerror or error}): run the command as who owns this Python, or "
            "in a virtual environment of your own"
        ) from None


def switch_off(folder: Path) -> list[Path]:
    """Remove the hook and what Python compiled of it; returns the files that were there."""
    module, start = _files(folder)
    compiled = sorted((folder / "__pycache__").glob(f"{NAME}.*.pyc"))
    removed = []
    try:
        for path in (start, module, *compiled):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                removed.append(path)
    except OSError as error:
        raise IdClipError(
            f"the hook cannot be removed from {folder} ({error.strerror or error}): run the command as who owns this Python"
        ) from None
    if compiled:
        with contextlib.suppress(OSError):  # others' compiled files are there
            (folder / "__pycache__").rmdir()
    return removed


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / f"{NAME}.py", folder / f"{NAME}.pth"


def _source() -> bytes:
    return Path(__file__).with_name("autoload_hook.py").read_bytes()


def _require_own_environment(folder: Path) -> None:
    """Refuse the system's Python, and one in which this package is there only for this process (PYTHONPATH, a checkout)."""
    managed = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix == sys.base_prefix and managed.exists():
        raise IdClipError(
            f"{sys.executable} belongs to the operating system, which does not want packages to be added ({managed}): use a "
            "virtual environment"
        )
    ask = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({__package__.partition('.')[0]!r}) is None)"
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        answer = subprocess.run([sys.executable, "-c", ask], cwd="/", env=surroundings, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IdClipError(f"{sys.executable} cannot be started ({error}): no hook was written") from None
    if answer.returncode:
        raise IdClipError(
            f"{sys.prefix} does not hold this package, which is found by PYTHONPATH or in the current folder: install it there "
            "first (pip install .), then its programs can load it"
        )
