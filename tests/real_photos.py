"""The folder of real photographs that tests try: `REAL`, and `needs_real_photos` skips where it is not there."""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("IDCLIP_REAL_PHOTOS") or Path(__file__).parent.parent.parent / "shared" / "real")

needs_real_photos = pytest.mark.skipif(
    not REAL.is_dir(), reason="no folder of real photographs (set IDCLIP_REAL_PHOTOS to one)"
)
