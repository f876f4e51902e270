"""Inputs of a swap run: folders and tables of the options -> what is known before any picture is opened.

Role: the options' folders and tables -> COCO subsets, identities and notes, and one hash of them all, by which a second
run knows whether it goes on with the same data.
"""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import location
from webdataset_tools.faceswap import coco
from webdataset_tools.faceswap.coco import CocoSubset
from webdataset_tools.faceswap.identities import IdentityFolder, load_identities, read_attribute_table
from webdataset_tools.faceswap.options import SwapOptions


@dataclass(frozen=True)
class SwapInputs:
    """COCO subsets by name, identities, and what the user tells about images (by image id)."""

    subsets: dict[str, CocoSubset]
    people: IdentityFolder
    notes: dict[int, dict[str, str]]

    def not_one_person(self) -> dict[str, int]:
        """Return reason -> COCO images that do not show exactly one person."""
        total: Counter[str] = Counter()
        for subset in self.subsets.values():
            total.update(subset.others)
        return dict(sorted(total.items()))


def read_inputs(options: SwapOptions) -> SwapInputs:
    """Read what `options` name; raises ReleaseError for a missing or broken file."""
    names = {coco.SUBSETS[split] for split, share in options.split_shares.items() if share > 0}
    notes = read_attribute_table(location(options.image_attributes)) if options.image_attributes else {}
    table = location(options.attributes) if options.attributes else None
    people = load_identities(location(options.identities), table)
    return SwapInputs(
        subsets={name: coco.load_subset(location(options.coco), name) for name in sorted(names)},
        people=people,
        notes={int(key): values for key, values in notes.items() if key.isdecimal()},
    )


def fingerprint(inputs: SwapInputs, model: Path | None) -> str:
    """Return a hash of everything that shapes the release, except the pictures' bytes."""
    digest = hashlib.sha256()
    for subset in inputs.subsets.values():
        digest.update(json_text([asdict(image) for image in subset.images], sort_keys=True).encode())
    digest.update(json_text([asdict(identity) for identity in inputs.people.identities], sort_keys=True).encode())
    digest.update(json_text(inputs.notes, sort_keys=True).encode())
    digest.update(b"" if model is None else file_sha256(model).encode())
    return digest.hexdigest()
