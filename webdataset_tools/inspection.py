"""The verb `idclip inspect`: a shard -> what is in it, without telling anybody's face.

Role: a tar -> counts and a few samples in words. Input: one shard (of this project or a foreign one); output: text on
the terminal. Only names and sizes of foreign members are looked at: nothing is unpacked, and embeddings, which are
biometric, are shown by size and length only.
"""

import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures import ImageRejected, open_image
from open_clip_idplugin.storage.locations import Location, location
from webdataset_tools.marking import read_digital_source_type, short_name
from webdataset_tools.sample_format import IMAGE, MEMBERS, REQUIRED, Sample, members_to_sample, shard_paths


@dataclass
class MemberCount:
    """How often a member occurs in a shard, and how large it is altogether."""

    count: int = 0
    bytes: int = 0


@dataclass
class ShardContents:
    """Everything that `inspect` knows about a shard."""

    path: Location
    samples: int = 0
    members: dict[str, MemberCount] = field(default_factory=lambda: defaultdict(MemberCount))
    foreign_keys: list[str] = field(default_factory=list)  # of samples that this project cannot read
    identities: Counter[str] = field(default_factory=Counter)
    images: set[int] = field(default_factory=set)
    splits: Counter[str] = field(default_factory=Counter)
    crop_sources: Counter[str] = field(default_factory=Counter)
    synthetic: int = 0
    image_marks: Counter[str] = field(default_factory=Counter)  # DigitalSourceType written in the images themselves
    first: list[Sample] = field(default_factory=list)


def inspect(shard: str, samples: int = 3) -> None:
    """Print what a shard (or each of several) holds: members, people, marks and the first samples.

    Args:
        shard: a tar, brace notation such as 'folder/{00000..00003}.tar', or a folder of tars; a tar's URL will do, too.
        samples: how many samples to describe.
    """
    for path in shard_paths(shard):
        print("\n".join(describe(read_contents(location(path), samples))))


def read_contents(path: Location, first: int = 3) -> ShardContents:
    """Count what a tar holds and keep its `first` samples. Raises IdClipError when it is not a whole tar."""
    contents = ShardContents(path)
    for members in _grouped(path):
        key = str(members.pop("__key__"))
        contents.samples += 1
        for name, content in members.items():
            contents.members[name].count += 1
            contents.members[name].bytes += len(content)
        try:
            sample = members_to_sample({"__key__": key, **members})
        except IdClipError:
            contents.foreign_keys.append(key)
            continue
        _count(contents, sample)
        if len(contents.first) < first:
            contents.first.append(sample)
    return contents


def _count(contents: ShardContents, sample: Sample) -> None:
    record = sample.record
    contents.identities[record.identity_id] += 1
    contents.images.add(record.image_id)
    contents.splits[record.split] += 1
    contents.crop_sources[record.face_crop_source or "no crop"] += 1
    contents.synthetic += record.synthetic is True
    mark = read_digital_source_type(sample.image_bytes)
    contents.image_marks[short_name(mark) if mark else "none"] += 1


def _grouped(path: Location) -> Iterator[dict]:
    """Yield `__key__` and members as bytes, grouped as webdataset groups them: up to the first dot of the file name."""
    members: dict = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            for entry in tar:
                folder, _, file_name = entry.name.rpartition("/")
                key, dot, name = file_name.partition(".")
                stream = tar.extractfile(entry) if entry.isfile() else None  # in memory; links are not followed
                if stream is None or not dot:
                    continue
                key = f"{folder}/{key}" if folder else key
                if members and members["__key__"] != key:
                    yield members
                    members = {}
                members["__key__"] = key
                members[name.lower()] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise IdClipError(f"{path} is not a whole tar file ({error}); pack it or copy it again") from None
    if members:
        yield members


def describe(contents: ShardContents) -> list[str]:
    """Return the lines that `inspect` prints for a shard."""
    size = contents.path.stat().st_size
    lines = [f"{contents.path}: {contents.samples:,} samples, {size:,} bytes"]
    order = {name: place for place, name in enumerate(MEMBERS)}
    for name, member in sorted(contents.members.items(), key=lambda item: (order.get(item[0], len(order)), item[0])):
        mean = member.bytes / member.count
        lines.append(f"  .{_printable(name):<9} {member.count:>8,} x {mean:>10,.0f} bytes on average")
    if contents.foreign_keys:
        shown = ", ".join(_printable(key) for key in contents.foreign_keys[:3])
        needed = ", ".join(f".{name}" for name in REQUIRED)
        lines.append(f"  {len(contents.foreign_keys):,} samples are not this project's ({shown}): they need {needed}")
    if contents.identities:
        lines += _describe_people(contents)
    for sample in contents.first:
        lines += _describe_sample(sample)
    return lines


def _describe_people(contents: ShardContents) -> list[str]:
    total = sum(contents.identities.values())
    synthetic = "all" if contents.synthetic == total else f"{contents.synthetic:,} of {total:,}"
    return [
        f"  people: {len(contents.identities):,}; scenes: {len(contents.images):,}; split: {_counts(contents.splits)}",
        f"  face crops: {_counts(contents.crop_sources)}",
        f"  marked as synthetic: {synthetic}; mark in the images: {_counts(contents.image_marks)}",
    ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{_printable(name)} {count:,}" for name, count in counter.most_common())


def _describe_sample(sample: Sample) -> list[str]:
    record = sample.record
    lines = [
        f"  {sample.key}: {_printable(record.identity_name)} ({record.identity_id}), image {record.image_id}, "
        f"{_printable(record.split)}, {'synthetic' if record.synthetic else 'NOT marked as synthetic'}",
        f"    .{IMAGE}: {_describe_image(sample.image_bytes)}; face embedding: {sample.face.size} floats, "
        f"length {np.linalg.norm(sample.face):.3f}; face crop: {record.face_crop_source or 'none'}",
    ]
    lines += [f"    - {_printable(caption)}" for caption in record.captions]
    if record.attributes:
        lines.append(
            "    "
            + ", ".join(f"{_printable(name)}: {_printable(str(value))}" for name, value in record.attributes.items())
        )
    return lines


def _describe_image(content: bytes) -> str:
    try:
        image = open_image(content)
    except ImageRejected as error:
        return f"not a usable image ({len(content):,} bytes): {error.reason}"
    return f"{image.format} {image.width}x{image.height}"


def _printable(text: str) -> str:
    """Make control characters of foreign files harmless for a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
