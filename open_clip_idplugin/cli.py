"""The console script `idclip`: one table of verbs, each a typed function whose signature is its command line.

Role: words on the command line -> one function call. Only the chosen verb's module is imported, so that `idclip --help`
answers at once although open_clip takes seconds to import. Verbs are named as strings for that reason, and because some
live in `webdataset_tools`, which this package must not import.
"""

import functools
import importlib
import inspect
import itertools
import sys
import typing
from collections.abc import Callable, Mapping, Sequence

from open_clip_idplugin.command_line.terminal import BAD_INPUT, print_last_line, refusal, run_as_process
from open_clip_idplugin.command_line.verb_arguments import bind, help_text, wants_help
from open_clip_idplugin.errors import IdClipError


class Verb(typing.NamedTuple):
    """One command: where its function is (`module:function`) and the line that `--help` shows."""

    target: str
    summary: str
    group: str = ""
    remote_output: bool = False  # whether --output may be a URL; what verbs write beside is local
    extra: str | None = None  # what to install for the verb, where that is not what else brings the package


# What people want, in the order of `--help`.
TRY, DATA, TRAIN, SEARCH, PEOPLE = "Try it", "Make data", "Train and measure", "Search", "People"
INSTALLATION = "This installation"
_WRITTEN = ("output", "gallery", "index", "report")  # flags that name what a verb writes


VERBS: Mapping[str, Verb] = {
    "open": Verb(
        "open_clip_idplugin.retrieval.open.command:open_pictures",
        "make your own pictures searchable by who and what, and serve them",
        TRY,
    ),
    "demo": Verb("webdataset_tools.miniature.demo:demo", "make, train, evaluate, index and search a small world", TRY),
    "models": Verb("open_clip_idplugin.model_store.command:models", "list the face models here, and fetch one", TRY),
    "miniature": Verb(
        "webdataset_tools.miniature.command:miniature", "draw a small COCO-PFS release (no downloads)", DATA
    ),
    "swap": Verb(
        "webdataset_tools.faceswap.command:swap",
        "make a COCO-PFS release from COCO and identity photos",
        DATA,
        remote_output=True,
    ),
    "shards": Verb(
        "webdataset_tools.shards:shards", "pack a COCO-PFS release into webdataset shards", DATA, remote_output=True
    ),
    "inspect": Verb("webdataset_tools.inspection:inspect", "print what is in a shard", DATA),
    "faces": Verb(
        "webdataset_tools.collection_faces.command:faces",
        "find and embed all faces of a picture collection",
        DATA,
        remote_output=True,
    ),
    "evaluate": Verb("webdataset_tools.evaluate:evaluate", "general and entity retrieval on shards", TRAIN),
    "export": Verb(
        "open_clip_idplugin.checkpoints.export:export", "write a trained model as a folder or a small file", TRAIN
    ),
    "calibrate": Verb(
        "open_clip_idplugin.gallery.calibrate_command:calibrate", "measure what a face model's similarities mean", TRAIN
    ),
    "index": Verb(
        "open_clip_idplugin.retrieval.index.build:index", "embed images and build a clip-retrieval index", SEARCH
    ),
    "index_faces": Verb(
        "open_clip_idplugin.retrieval.face_index.build:index_faces",
        "add the faces of the pictures to an image index",
        SEARCH,
        extra="search",
    ),
    "index_add": Verb(
        "open_clip_idplugin.retrieval.index.add:index_add", "add images to an index, also while it is served", SEARCH
    ),
    "index_remove": Verb(
        "open_clip_idplugin.retrieval.index.remove:index_remove",
        "take images out of an index, also while it is served",
        SEARCH,
        extra="search",
    ),
    "index_compact": Verb(
        "open_clip_idplugin.retrieval.index.compact:index_compact",
        "erase removed images from the files of an index",
        SEARCH,
    ),
    "search": Verb(
        "open_clip_idplugin.retrieval.search.command:search", "find a person in a context", SEARCH, extra="search"
    ),
    "serve": Verb(
        "open_clip_idplugin.retrieval.serve:serve", "clip-retrieval's backend with people in the query", SEARCH
    ),
    "enroll": Verb("open_clip_idplugin.gallery.verbs:enroll", "remember a person from one or more photos", PEOPLE),
    "enroll_folder": Verb(
        "open_clip_idplugin.gallery.folder_command:enroll_folder", "remember everybody of a folder of photos", PEOPLE
    ),
    "enroll_regions": Verb(
        "open_clip_idplugin.gallery.region_command:enroll_regions",
        "remember the people whom a photo manager has named",
        PEOPLE,
    ),
    "suggest": Verb(
        "open_clip_idplugin.gallery.group_commands:suggest",
        "group the unknown faces of a face table, to be named",
        PEOPLE,
    ),
    "enroll_groups": Verb(
        "open_clip_idplugin.gallery.group_commands:enroll_groups", "remember the people whose groups were named", PEOPLE
    ),
    "list": Verb("open_clip_idplugin.gallery.verbs:list_people", "list the enrolled people", PEOPLE),
    "rename": Verb("open_clip_idplugin.gallery.verbs:rename", "give an enrolled person another name", PEOPLE),
    "edit": Verb(
        "open_clip_idplugin.gallery.verbs:edit", "change the notes or the consent of an enrolled person", PEOPLE
    ),
    "alias": Verb(
        "open_clip_idplugin.gallery.verbs:alias", "let an enrolled person be called something else as well", PEOPLE
    ),
    "merge": Verb("open_clip_idplugin.gallery.verbs:merge", "join two names of one enrolled person", PEOPLE),
    "forget": Verb("open_clip_idplugin.gallery.verbs:forget", "erase an enrolled person completely", PEOPLE),
    "export_people": Verb(
        "open_clip_idplugin.gallery.verbs:export_people",
        "write enrolled people to a file for another gallery",
        PEOPLE,
    ),
    "import_people": Verb("open_clip_idplugin.gallery.verbs:import_people", "enroll the people of such a file", PEOPLE),
    "doctor": Verb(
        "open_clip_idplugin.doctor.command:doctor", "say what is installed, what lacks and what is wrong", INSTALLATION
    ),
    "hosts": Verb(
        "open_clip_idplugin.hosts.autoload:hosts",
        "let open_clip's and clip-retrieval's own commands know the models",
        INSTALLATION,
    ),
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
    verb = verbs[name]
    return _ended(title, lambda: _call(verb_function(verb), rest, title, verb.remote_output), verb.extra)


def main_of(function: Callable[..., object], program: str) -> None:
    """Entry point of a module that is one verb, outside the table."""
    run_as_process(lambda: _ended(program, lambda: _call(function, sys.argv[1:], program)))


def _ended(program: str, work: Callable[[], None], extra: str | None = None) -> int:
    try:
        work()
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; run the same command again to go on", file=sys.stderr)
        return 1
    except Exception as error:  # `refusal` tells bad input from a defect, which is raised again
        sentence = refusal(error, extra)
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
    for group, members in itertools.groupby(verbs.items(), lambda entry: entry[1].group):
        lines += [f"{group}:"] if group else []
        lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in members]
        if group == TRAIN:
            lines += [f"  {'':<{width}}  (training is open_clip's own command: python -m training_patches --help)"]
    return "\n".join(lines)


def _fail(program: str, sentence: str) -> int:
    print_last_line(program, sentence)
    return BAD_INPUT


def _call(function: Callable[..., object], words: Sequence[str], program: str, remote_output: bool = True) -> None:
    if wants_help(words):
        print(help_text(function, program))
        return
    call = bind(function, words, program)
    if not remote_output:
        _require_local(call, program)
    call()


def _require_local(call: "functools.partial[object]", program: str) -> None:
    """Refuse a URL where a verb writes to a folder of this machine; it would make one of that name."""
    given = inspect.signature(call.func).bind(*call.args, **call.keywords).arguments
    for name in _WRITTEN:
        if "://" in str(given.get(name)):
            raise IdClipError(
                f"--{name} is a place on this machine, and '{given[name]}' is a URL: give {program} a path"
            )
