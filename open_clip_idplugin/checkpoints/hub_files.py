"""Checkpoints on a model hub: "hf-hub:OWNER/NAME@REVISION" -> the delta file of that repository, on this machine.

huggingface_hub fetches it, into its own cache and with its own token. Only the one safetensors file is fetched, of bounded
size, and nothing in it is run; what it holds is checked by whoever reads it (see `delta_files`).
"""

from __future__ import annotations

import functools
from pathlib import Path

from open_clip_idplugin.checkpoints.delta_files import is_delta
from open_clip_idplugin.errors import IdClipError

PREFIX = "hf-hub:"  # open_clip's own word
DELTA = "idclip_delta.safetensors"  # by this name a repository holds its delta
MOST_BYTES = 8 << 30  # of a delta with both towers of the largest CLIP whose training was planned for


def on_this_machine(checkpoint: str) -> str:
    """A checkpoint as given -> the same with a delta of a hub ("hf-hub:...", or "BASE+hf-hub:...") as a file of the cache.

    Raises:
        IdClipError: there is no such repository, it holds no delta, or it cannot be reached and is not in the cache.
    """
    base, prefix, name = checkpoint.partition(PREFIX)
    if not prefix or (base and not base.endswith("+")) or Path(checkpoint).is_file():
        return checkpoint
    return f"{base}{_fetch_delta(name)}"


@functools.lru_cache(maxsize=16)  # a process asks the hub once, so that all its parts see one revision
def _fetch_delta(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, revision = _parse(name)
    try:
        size = _size_on_hub(repository, revision)
        if size is None or size <= MOST_BYTES:
            path = Path(hf_hub_download(repository, DELTA, revision=revision, local_files_only=size is None))
            size = path.stat().st_size
    except LocalEntryNotFoundError:
        at = "" if revision is None else f" --revision {revision}"
        raise IdClipError(
            f"{PREFIX}{name} is not on this machine, and the hub could not be reached; `hf download {repository} {DELTA}{at}`, "
            "where there is a network, puts it into the cache of Hugging Face (HF_HOME), from where it is read."
        ) from None
    except GatedRepoError:
        raise IdClipError(
            f"the hub lets only those read {repository} who accept its terms; do so on its page, then `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise IdClipError(
            f"the hub has no repository {repository} that you may read; look at its name, or `hf auth login` where it is private."
        ) from None
    except RevisionNotFoundError:
        raise IdClipError(
            f"the repository {repository} has no revision {revision or 'main'}; name a branch, a tag or a commit of it."
        ) from None
    except EntryNotFoundError:
        raise IdClipError(
            f"the repository {repository} holds no {DELTA}, which `idclip export --output FOLDER/{DELTA}` writes; "
            "--checkpoint takes no other kind of repository."
        ) from None
    except Exception as error:  # requests', httpx' or the disk's, by version and fault
        raise IdClipError(
            f"{PREFIX}{name} could not be fetched from the hub ({type(error).__name__}); try again later."
        ) from None
    if size > MOST_BYTES:
        raise IdClipError(
            f"{DELTA} of {repository} has {size / 1e9:.1f} GB, and at most {MOST_BYTES / 1e9:.1f} are fetched; get it "
            "yourself and give the file."
        )
    if not is_delta(path):
        raise IdClipError(
            f"{DELTA} of {repository} is not a delta file; --checkpoint takes what `idclip export` wrote."
        )
    return path


def _parse(name: str) -> tuple[str, str | None]:
    """OWNER/NAME@REVISION -> (OWNER/NAME, REVISION); raises IdClipError for another form."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repository, at, revision = name.partition("@")
    try:
        validate_repo_id(repository)
        usable = repository.count("/") == 1 and bool(revision) == bool(at)
    except HFValidationError:
        usable = False
    if not usable:
        raise IdClipError(
            f"{PREFIX}{name} is no repository of a hub; write it as {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION."
        )
    return repository, revision or None


def _size_on_hub(repository: str, revision: str | None) -> int | None:
    """Bytes of the delta as the hub says them, 0 where it does not; None where it cannot be asked: the cache is all there is."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return get_hf_file_metadata(hf_hub_url(repository, DELTA, revision=revision)).size or 0
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # no network, in the words of requests or httpx
        return None
