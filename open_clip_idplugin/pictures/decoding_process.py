"""Sandboxed decoding, the child's side: a process that decodes pictures from a pipe under limits of memory and files.

Role: requests on standard input -> answers on standard output, until the input ends. A request is a head (what to do, most
pixels, bytes) and the picture; an answer a head (kind, bytes) and RGB pixels behind their size, or a refusal as JSON.
Nothing is unpickled on either side: a decoder that a picture took over can send pixels or sentences, and no more.
"""

import contextlib
import os
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

from open_clip_idplugin.pictures.decoding import load_image, open_image
from open_clip_idplugin.pictures.errors import ImageRejected
from open_clip_idplugin.storage.finite_json import json_text

REQUEST, ANSWER, SIZE = struct.Struct("<BQQ"), struct.Struct("<BQ"), struct.Struct("<II")
OPEN, LOAD = 0, 1  # what to do: look at the header, or decode
READY, PIXELS, REFUSED = 0, 1, 2  # kinds of answers
_PROCESSOR_SECONDS = 300  # of all threads of a decoder
_MEMORY = 3 << 30  # beyond what the libraries take; the largest picture that is let through needs a third


def main() -> None:
    """Answer until nobody asks any more."""
    source = sys.stdin.buffer
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    _limit()
    target.write(ANSWER.pack(READY, 0))
    target.flush()
    while len(head := source.read(REQUEST.size)) == REQUEST.size:
        _limit_processor()
        what, most_pixels, length = REQUEST.unpack(head)
        _answer(what, most_pixels, source.read(length), target)
        target.flush()


def _answer(what: int, most_pixels: int, content: bytes, target: BinaryIO) -> None:
    try:
        if what == OPEN:
            open_image(content, most_pixels)
            target.write(ANSWER.pack(READY, 0))
            return
        image = load_image(content)
        pixels = image.tobytes()
    except ImageRejected as error:
        told = json_text([type(error).__name__, error.source, error.reason]).encode()
        target.write(ANSWER.pack(REFUSED, len(told)) + told)
    else:
        target.write(ANSWER.pack(PIXELS, SIZE.size + len(pixels)) + SIZE.pack(*image.size))
        target.write(pixels)


def _limit_processor() -> None:
    """Let the next picture have so much processor time, should nobody be there any more to end it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = int(time.process_time()) + _PROCESSOR_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit() -> None:
    """Bound memory, and let no file be written and no picture of the memory be left; as far as the system can."""
    from open_clip_idplugin.pictures.formats import known_formats

    known_formats()  # the decoders' libraries are loaded before
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        taken = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, taken + _MEMORY))
