"""The console script `idclip`: one table of verbs, each a typed function whose signature is its command line.

Role: words on the command line -> one function call. Only the chosen verb's module is imported, so that `idclip --help`
answers at once although open_clip takes seconds to import. Verbs are named as strings for that reason, and because some
live in `webdataset_tools`, which this package must not import.
"""

import importlib
import sys
import typing
from collections.abc import Callable, Mapping, Sequence

from open_clip_idplugin.command_line.terminal import BAD_INPUT, refusal, run_as_process, tell
from open_clip_idplugin.command_line.verb_arguments import bind, help_text, wants_help


class Verb(typing.NamedTuple):
    """One command: where its function is (`module:function`) and the line that `--help` shows."""

    target: str
    summary: str


VERBS: Mapping[str, Verb] = {
    "open": Verb(
        "open_clip_idplugin.retrieval.open:open_pictures",
        "make your own pictures searchable by who and what, and serve them",
    ),
    "demo": Verb("webdataset_tools.miniature.demo:demo", "make, train, evaluate, index and search a small world"),
    "miniature": Verb("webdataset_tools.miniature.command:miniature", "draw a small COCO-PFS release (no downloads)"),
    "swap": Verb("webdataset_tools.faceswap.command:swap", "make a COCO-PFS release from COCO and identity photos"),
    "shards": Verb("webdataset_tools.shards:shards", "pack a COCO-PFS release into webdataset shards"),
    "inspect": Verb("webdataset_tools.inspection:inspect", "print what is in a shard"),
    "faces": Verb(
        "webdataset_tools.collection_faces.command:faces", "find and embed all faces of a picture collection"
    ),
    "models": Verb("open_clip_idplugin.model_store.command:models", "list the face models here, and fetch one"),
    "evaluate": Verb("webdataset_tools.evaluate:evaluate", "general and entity retrieval on shards"),
    "export": Verb("open_clip_idplugin.checkpoints.export:export", "write a trained model as a folder or a small file"),
    "index": Verb("open_clip_idplugin.retrieval.index.build:index", "embed images and build a clip-retrieval index"),
    "index_faces": Verb(
        "open_clip_idplugin.retrieval.face_index.build:index_faces", "add the faces of the pictures to an image index"
    ),
    "index_add": Verb(
        "open_clip_idplugin.retrieval.index.add:index_add", "add images to an index, also while it is served"
    ),
    "index_remove": Verb(
        "open_clip_idplugin.retrieval.index.remove:index_remove", "take images out of an index, also while it is served"
    ),
    "index_compact": Verb(
        "open_clip_idplugin.retrieval.index.compact:index_compact", "erase removed images from the files of an index"
    ),
    "enroll": Verb("open_clip_idplugin.gallery.verbs:enroll", "remember a person from one or more photos"),
    "enroll_folder": Verb(
        "open_clip_idplugin.gallery.folder_command:enroll_folder", "remember everybody of a folder of photos"
    ),
    "enroll_regions": Verb(
        "open_clip_idplugin.gallery.region_command:enroll_regions", "remember the people whom a photo manager has named"
    ),
    "suggest": Verb(
        "open_clip_idplugin.gallery.group_commands:suggest", "group the unknown faces of a face table, to be named"
    ),
    "enroll_groups": Verb(
        "open_clip_idplugin.gallery.group_commands:enroll_groups", "remember the people whose groups were named"
    ),
    "calibrate": Verb(
        "open_clip_idplugin.gallery.calibrate_command:calibrate", "measure what a face model's similarities mean"
    ),
    "list": Verb("open_clip_idplugin.gallery.verbs:list_people", "list the enrolled people"),
    "rename": Verb("open_clip_idplugin.gallery.verbs:rename", "give an enrolled person another name"),
    "edit": Verb("open_clip_idplugin.gallery.verbs:edit", "change the notes or the consent of an enrolled person"),
    "alias": Verb("open_clip_idplugin.gallery.verbs:alias", "let an enrolled person be called something else as well"),
    "merge": Verb("open_clip_idplugin.gallery.verbs:merge", "join two names of one enrolled person"),
    "forget": Verb("open_clip_idplugin.gallery.verbs:forget", "erase an enrolled person completely"),
    "export_people": Verb(
        "open_clip_idplugin.gallery.exchange_verbs:export_people", "write enrolled people to a file for another gallery"
    ),
    "import_people": Verb(
        "open_clip_idplugin.gallery.exchange_verbs:import_people", "enroll the people of such a file"
    ),
    "search": Verb("open_clip_idplugin.retrieval.search:search", "find a person in a context"),
    "serve": Verb("open_clip_idplugin.retrieval.serve:serve", "clip-retrieval's backend with people in the query"),
}


def main() -> None:
    """Entry point of the console script."""
    run_as_process(lambda: run(VERBS, sys.argv[1:], "idclip"))


def run(verbs: Mapping[str, Verb], arguments: Sequence[str], program: str) -> int:
    """Call the verb that `arguments` name and return the exit code: 0, 1 interrupted, 2 bad input.

    What `terminal.refusal` has a sentence for ends in it, as the last line on stderr; a defect keeps its traceback.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage(verbs, program))
        return 0
    name, *rest = arguments
    name = name if name in verbs else name.replace("-", "_")
    if name not in verbs:
        return _fail(program, f"'{name}' is not a verb; choose one of {', '.join(verbs)}")
    title = f"{program} {name}"
    return _ended(title, lambda: _call(verb_function(verbs[name]), rest, title))


def main_of(function: Callable[..., object], program: str) -> None:
    """Entry point of a module that is one verb, outside the table."""
    run_as_process(lambda: _ended(program, lambda: _call(function, sys.argv[1:], program)))


def _ended(program: str, work: Callable[[], None]) -> int:
    try:
        work()
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; run the same command again to go on", file=sys.stderr)
        return 1
    except Exception as error:
        sentence = refusal(error)
        if sentence is None:
            raise
        return _fail(program, sentence)
    return 0


def verb_function(verb: Verb) -> Callable[..., object]:
    """Import the function behind a verb."""
    module, _, attribute = verb.target.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    return function


def _usage(verbs: Mapping[str, Verb], program: str) -> str:
    width = max(map(len, verbs))
    lines = [f"usage: {program} VERB [FLAGS]          ({program} VERB --help shows a verb's flags)", ""]
    lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in verbs.items()]
    if program == "idclip":
        lines += ["", "Training is open_clip's own command: python -m training_patches --help"]
    return "\n".join(lines)


def _fail(program: str, sentence: str) -> int:
    tell(program, sentence)
    return BAD_INPUT


def _call(function: Callable[..., object], words: Sequence[str], program: str) -> None:
    if wants_help(words):
        print(help_text(function, program))
    else:
        bind(function, words, program)()
