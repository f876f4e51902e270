"""The fast tar writer: the bytes that tarfile writes, and the limits of the format."""

import io
import subprocess
import tarfile

import pytest

from webdataset_tools.tar_writing import TarWriter, _header

MEMBERS = [
    ("1_n1.face.jpg", b""),
    ("1_n1.jpg", bytes(range(256)) * 7),
    ("123456789012_" + "n" * 64 + ".face.npy", b"x" * 512),
    ("9_a-b_C.json", b"{}" * 30_000),
    ("n" * 100, b"last"),
]


def written(members) -> bytes:
    stream = io.BytesIO()
    with TarWriter(stream) as tar:
        for name, content in members:
            tar.add(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("count", range(len(MEMBERS) + 1))
def test_tarfile_writes_the_same_and_reads_it(count):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in MEMBERS[:count]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    ours = written(MEMBERS[:count])
    if tarfile.TarInfo("x").tobuf()[329] == 0:  # some versions write the numbers of no device
        assert ours == stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(ours)) as tar:
        found = [(entry.name, tar.extractfile(entry).read(), entry.mode, entry.mtime, entry.uid) for entry in tar]
    assert found == [(name, content, 0o644, 0, 0) for name, content in MEMBERS[:count]]


def test_the_tar_program_lists_it(tmp_path):
    (tmp_path / "a.tar").write_bytes(written(MEMBERS))
    listed = subprocess.run(["tar", "-tf", tmp_path / "a.tar"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [name for name, _ in MEMBERS] and not listed.stderr


def test_what_the_format_cannot_hold_is_refused():
    for name in ("n" * 101, "é"):
        with pytest.raises(ValueError, match=r"beyond its format|ascii"):
            written([(name, b"")])
    with pytest.raises(ValueError, match="8589934592 bytes is beyond"):
        _header(b"a", 8 << 30)


def test_a_tar_that_fails_in_its_middle_gets_no_end():
    stream = io.BytesIO()
    with pytest.raises(KeyError), TarWriter(stream) as tar:
        tar.add("a", b"b")
        raise KeyError
    assert len(stream.getvalue()) == 1024
