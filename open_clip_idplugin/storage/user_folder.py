"""The user's data folder (XDG base directory specification): where the gallery and fetched models lie unless said otherwise."""

import os
from pathlib import Path


def user_folder() -> Path:
    """`$XDG_DATA_HOME/open_clip_idplugin`, by default `~/.local/share/open_clip_idplugin`; it need not exist."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "open_clip_idplugin"
