"""A tar of plain files, written fast: (name, content) -> header, content, padding.

Role: the members of a shard differ in name and size only; everything else in their headers is fixed (USTAR, mode 0644, no
owner, time 0), so that the same members give the same bytes on any machine. They are the bytes that `tarfile` writes for
`TarInfo(name)`, at a tenth of its time.
"""

from types import TracebackType
from typing import BinaryIO

BLOCK = 512  # headers are one block; contents are filled up to whole ones
_RECORD = 20 * BLOCK  # a tar is filled up to whole records
_LONGEST_NAME = 100
_LARGEST = 8**11 - 1
_ZEROS = bytes(_RECORD)
_NUMBER = b"%07o\0"
_HEADER = b"".join(
    [
        bytes(_LONGEST_NAME),  # name
        _NUMBER % 0o644,
        _NUMBER % 0 * 2,  # owner, group
        bytes(12),  # size
        b"%011o\0" % 0,  # time
        b" " * 8,  # checksum: counted as spaces
        b"0",  # a file
        bytes(100),  # target of a link
        b"ustar\00000",
        bytes(64),  # names of owner and group
        bytes(183),  # device, a longer name's beginning, the rest of the block
    ]
)
_HEADER_SUM = sum(_HEADER)


class TarWriter:
    """Writes to an open stream; the tar is whole when the `with` block ends without an exception."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._written = 0

    def add(self, name: str, content: bytes) -> None:
        """Append a file.

        Raises ValueError for a name that is no ASCII or longer than 100 letters, and for 8 GiB or more.
        """
        padding = -len(content) % BLOCK
        self._stream.write(_header(name.encode("ascii"), len(content)))
        self._stream.write(content)
        self._stream.write(_ZEROS[:padding])
        self._written += BLOCK + len(content) + padding

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            end = self._written + 2 * BLOCK
            self._stream.write(bytes(2 * BLOCK + -end % _RECORD))


def _header(name: bytes, size: int) -> bytes:
    if len(name) > _LONGEST_NAME or size > _LARGEST:
        raise ValueError(f"a tar member of {len(name)} letters and {size} bytes is beyond its format")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_HEADER_SUM + sum(name) + sum(digits))
    return name + _HEADER[len(name) : 124] + digits + _HEADER[136:148] + checksum + _HEADER[156:]
