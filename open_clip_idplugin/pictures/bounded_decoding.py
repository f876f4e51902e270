"""Sandboxed decoding: pictures that strangers send, decoded under a deadline that ends the work.

Role: bytes -> header checked, or RGB image, as `open_image` and `load_image` give it. A JPEG whose scans were counted in its
bytes is decoded here, since libjpeg's time is bounded by them; any other picture goes to a child process (see
`decoding_process`) that is kept for the next one, and killed when it takes longer than the deadline. A thread could not be
ended, and a process for every picture would cost more than most decoding.
"""

import atexit
import contextlib
import json
import queue
import subprocess
import sys
import threading
from functools import lru_cache
from typing import IO, TYPE_CHECKING

from open_clip_idplugin.errors import Busy
from open_clip_idplugin.pictures import errors
from open_clip_idplugin.pictures.bounds import MAX_BYTES, MAX_PIXELS, scanned_pixels
from open_clip_idplugin.pictures.decoding import load_image, open_image
from open_clip_idplugin.pictures.decoding_process import (
    ANSWER,
    LOAD,
    OPEN,
    PIXELS,
    READY,
    REFUSED,
    REQUEST,
    SIZE,
)

if TYPE_CHECKING:
    from PIL import Image

SECONDS = 10.0  # for one picture, and as long at most for a free process
_PROCESSES = 2
_QUICK = 200_000_000  # scanned pixels of a JPEG that take about a second
_CHILD = "import sys; sys.path[:] = {path!r}; from open_clip_idplugin.pictures.decoding_process import main; main()"
_KINDS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type)}


def check_picture(content: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Look at a picture's header, as `open_image` does, under the deadline.

    Raises:
        ImageRejected: as `open_image`; `PictureTooLarge` also where the deadline came first.
        Busy: every process was at work until then.
    """
    if _is_quick(content):
        open_image(content, max_pixels)
    else:
        _decoders().ask(OPEN, content, max_pixels)


def decode_picture(content: bytes) -> "Image.Image":
    """Decode a picture, as `load_image` does, under the deadline; raises as `check_picture`."""
    from PIL import Image

    if _is_quick(content):
        return load_image(content)
    answer = _decoders().ask(LOAD, content)
    return Image.frombytes("RGB", SIZE.unpack_from(answer), memoryview(answer)[SIZE.size :])


class Decoders:
    """A few child processes, started when they are first needed and again after one was killed."""

    def __init__(self, processes: int = _PROCESSES, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._free: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def ask(self, what: int, content: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
        """One picture through one process; the answer's bytes. Raises as `check_picture`."""
        try:
            child = self._free.get(timeout=self.seconds)
        except queue.Empty:
            raise Busy("other pictures are being decoded at this moment: try again") from None
        try:
            if child is None or not child.alive():
                child = _Child()
            return child.ask(REQUEST.pack(what, max_pixels, len(content)), content, self.seconds)
        finally:
            self._free.put(child if child is not None and child.alive() else None)

    def close(self) -> None:
        """End the processes that are free."""
        while True:
            try:
                child = self._free.get_nowait()
            except queue.Empty:
                return
            if child is not None:
                child.end()


@lru_cache(maxsize=1)
def _decoders() -> Decoders:
    decoders = Decoders()
    atexit.register(decoders.close)
    return decoders


class _Child:
    """One process, asked by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is for the service, which then ends it
        )
        self._ready = False
        self._whole = True  # whether nothing of an answer is left in the pipe

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self._process.wait()

    def ask(self, head: bytes, content: bytes, seconds: float) -> bytes:
        """Send, and wait for the answer; the process is killed when it takes longer."""
        name, late = f"(given as {len(content)} bytes)", threading.Event()

        def too_late() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, too_late)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(head, content, name)
        except (OSError, EOFError):
            if late.is_set():
                raise errors.PictureTooLarge(
                    name, "it takes too long to decode; save it anew as a plain JPEG"
                ) from None
            raise errors.PictureDamaged(name, "its decoder broke down; save it anew as a plain JPEG") from None
        finally:
            timer.cancel()
            timer.join()  # from now on it kills nobody who works for another
            if not self._whole or late.is_set():
                self.end()

    def _exchange(self, head: bytes, content: bytes, name: str) -> bytes:
        send, receive = self._process.stdin, self._process.stdout
        assert send is not None and receive is not None
        self._whole = False
        if not self._ready:
            _read(receive, ANSWER.size)
            self._ready = True
        send.write(head)
        send.write(content)
        send.flush()
        kind, length = ANSWER.unpack(_read(receive, ANSWER.size))
        if length > SIZE.size + 3 * MAX_PIXELS or kind not in (READY, PIXELS, REFUSED):
            raise EOFError
        answer = _read(receive, length)
        self._whole = True
        if kind == REFUSED:
            what, source, reason = json.loads(answer)
            raise _KINDS.get(what, errors.PictureDamaged)(str(source), str(reason))
        return answer


def _read(stream: IO[bytes], length: int) -> bytes:
    answer = stream.read(length)
    if len(answer) != length:
        raise EOFError
    return answer


def _is_quick(content: bytes) -> bool:
    scanned = scanned_pixels(content) if len(content) <= MAX_BYTES else None
    return scanned is not None and scanned <= _QUICK
