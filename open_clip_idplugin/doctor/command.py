"""`idclip doctor`: what this installation has, what it lacks and what is wrong, one line each. Flags in, lines or JSON out."""

import functools
from collections.abc import Callable, Iterable

from open_clip_idplugin.doctor import files, installation
from open_clip_idplugin.doctor.findings import WRONG, Finding, found_by
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.finite_json import json_text


def doctor(gallery: str | None = None, index: str | None = None, json: bool = False) -> None:
    """Examine this installation: hosts and their patch rows, extras, devices, models, gallery, index, free disk.

    Every line begins with ok, note (worth knowing) or wrong (with the remedy). The exit code is 0, or 2 where something is
    wrong. Nothing is changed or fetched; importing the hosts takes some seconds.

    Args:
        gallery: gallery file to examine (default: gallery.sqlite in the user's data folder).
        index: index folder to examine.
        json: print one JSON object {"ok": ..., "findings": [{"about", "state", "text"}, ...]} in the place of lines.
    """
    found: list[Finding] = []
    for about, check in _checks(gallery, index):
        for finding in found_by(about, check):
            found.append(finding)
            if not json:
                print(finding.line, flush=True)  # at once: the next check may take seconds
    wrong = [finding for finding in found if finding.state == WRONG]
    if json:
        print(json_text({"ok": not wrong, "findings": [vars(finding) for finding in found]}, indent=1))
    if wrong:
        about = ", ".join(dict.fromkeys(finding.about for finding in wrong))
        raise IdClipError(f"{len(wrong)} of {len(found)} lines say 'wrong' ({about}): do what they say")
    if not json:
        print("Nothing is wrong.")


def _checks(gallery: str | None, index: str | None) -> Iterable[tuple[str, Callable[[], Iterable[Finding]]]]:
    return (
        ("plugin", installation.plugin),
        ("hosts", installation.hosts),
        ("autoload", installation.start_up_hook),
        ("extras", installation.extras),
        ("devices", installation.devices),
        ("face models", files.face_models),
        ("CLIP weights", files.clip_weights),
        ("gallery", functools.partial(files.gallery, gallery)),
        ("index", functools.partial(files.index, index)),
        ("free disk", files.free_disk),
    )
