"""Command-line parsing: a verb's typed function + the words behind its name -> a call that can be made, or one sentence.

Role: flags, their types and their help come from the function's signature, annotations and docstring; argparse reads the words.
Every parameter can be given as a flag (`--det_size 640`, `--det-size=640`, `-d 640` where one letter says which) or, in
its turn, without one. Switches are `--crops` and `--nocrops` (or `--crops=False`). Nothing is run here.
"""

import argparse
import difflib
import functools
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from open_clip_idplugin.errors import IdClipError

_HELP = ("-h", "--help")
_END_OF_FLAGS = "--"
_NO_VALUE = re.compile(r"argument (--\w+).*: expected one argument")  # argparse's words
_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)  # of a docstring's section Args
_NEGATIVE_NUMBER = re.compile(r"-\.?\d")
_MANY = {"workers": 1024, "threads": 1024}  # by the names they have in every verb; more would stop the machine
_MOST = 2**63 - 1  # what NumPy, SQLite and faiss can count


@dataclass(frozen=True)
class Parameter:
    """One parameter of a verb's function, which is a flag unless it is variadic."""

    name: str
    kind: type  # str, int, float or bool
    optional: bool  # None may stand for it
    default: object
    variadic: bool
    by_name: bool  # it stands behind a variadic one

    @property
    def flag(self) -> str:
        """As in `--det_size`."""
        return f"--{self.name}"

    @property
    def required(self) -> bool:
        """Whether nothing stands in for it."""
        return self.default is inspect.Parameter.empty and not self.variadic


@dataclass(frozen=True)
class SharedFlag:
    """A flag that several verbs have: its name, its type as an annotation, what stands in for it, and its help."""

    name: str
    annotation: object
    default: object
    help: str


def with_flags(
    verb: Callable[..., None], flags: Sequence[SharedFlag], gather: Callable[[dict[str, typing.Any]], object]
) -> Callable[..., None]:
    """The verb with these flags behind its own; `gather` makes its last parameter of those that were given."""
    own = inspect.signature(verb)
    *kept, last = own.parameters.values()
    kind = last.kind if last.kind is last.KEYWORD_ONLY else last.POSITIONAL_OR_KEYWORD
    added = [inspect.Parameter(flag.name, kind, default=flag.default, annotation=flag.annotation) for flag in flags]
    signature = own.replace(parameters=[*kept, *added])

    @functools.wraps(verb)
    def with_shared(*arguments: typing.Any, **named: typing.Any) -> None:
        bound = signature.bind(*arguments, **named)
        given = {flag.name: bound.arguments.pop(flag.name) for flag in flags if flag.name in bound.arguments}
        verb(*bound.args, **bound.kwargs, **{last.name: gather(given)})

    hints = {name: hint for name, hint in typing.get_type_hints(verb).items() if name != last.name}
    with_shared.__signature__ = signature  # type: ignore[attr-defined]
    with_shared.__annotations__ = {**hints, **{flag.name: flag.annotation for flag in flags}}
    entries = [f"        {flag.name}: {flag.help}" for flag in flags]  # as a function's section Args is indented
    with_shared.__doc__ = "\n".join([(verb.__doc__ or "").rstrip(), *entries])
    return with_shared


def require_whole_number(flag: str, value: object, least: int | None = None) -> None:
    """Raise IdClipError unless a flag's value is an int (no bool), from `least` on; for values that Python callers give."""
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        bound = "" if least is None else f" from {least} on"
        raise IdClipError(f"{flag} must be a whole number{bound}, not {value!r}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        without = _NO_VALUE.match(message)
        if without:
            flag = without[1]
            raise IdClipError(f"{flag} needs a value (one that begins with a dash is written {flag}=VALUE)")
        raise IdClipError(f"{message}{_see_help(self.prog)}")


def wants_help(words: Sequence[str]) -> bool:
    """Whether a verb is asked about and not called, wherever the flag stands."""
    own, _ = _split(words)
    return any(word in _HELP for word in own)


def help_text(function: Callable[..., object], program: str) -> str:
    """Usage, what the docstring says, and every flag."""
    return _parser(function, parameters_of(function), program).format_help()


def flags_of(function: Callable[..., object]) -> list[str]:
    """The flags that a verb's function takes, such as `--det_size`."""
    return [parameter.flag for parameter in parameters_of(function) if not parameter.variadic]


def bind(function: Callable[..., object], words: Sequence[str], program: str) -> "functools.partial[object]":
    """The call of `function` that the words ask for.

    Raises IdClipError: an unknown flag, a value of another type, too few or too many of them.
    """
    parameters = parameters_of(function)
    own, behind = _split(words)
    parser = _parser(function, parameters, program)
    flags, rest = parser.parse_known_args(_with_values(own, parameters))
    _refuse_unknown(rest, flags_of(function), program)
    positional, named = [*rest, *behind], vars(flags)
    arguments: list[object] = []
    by_name: dict[str, object] = {}
    for parameter in parameters:
        if parameter.variadic:
            arguments += [_value(word, parameter) for word in positional]
            positional = []
            continue
        if parameter.name in named or (positional and not parameter.by_name):
            value = _value(named[parameter.name] if parameter.name in named else positional.pop(0), parameter)
        elif parameter.required:
            raise IdClipError(f"{parameter.flag} is missing{_see_help(program)}")
        else:
            value = parameter.default
        if parameter.by_name:
            by_name[parameter.name] = value
        else:
            arguments.append(value)
    if positional:
        raise IdClipError(f"'{positional[0]}' is one value too many{_see_help(program)}")
    return functools.partial(function, *arguments, **by_name)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words, and those behind `--`, none of which is a flag."""
    at = words.index(_END_OF_FLAGS) if _END_OF_FLAGS in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def _see_help(program: str) -> str:
    return f"; `{program} --help` shows what it takes"


def parameters_of(function: Callable[..., object]) -> list[Parameter]:
    """Every parameter, in order; raises TypeError for an annotation that no word can be."""
    hints = typing.get_type_hints(function)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        united = typing.get_origin(hints[name]) in (typing.Union, types.UnionType)
        kinds = [kind for kind in typing.get_args(hints[name]) if kind is not type(None)] if united else [hints[name]]
        if len(kinds) != 1 or kinds[0] not in _READERS:
            raise TypeError(f"{function.__name__}: a word cannot be the {hints[name]} of {name}")
        variadic, by_name = (parameter.kind is kind for kind in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY))
        found.append(Parameter(name, kinds[0], united, parameter.default, variadic, by_name))
    return found


def _parser(function: Callable[..., object], parameters: Sequence[Parameter], program: str) -> _Parser:
    what, _, entries = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    texts = {name: " ".join(text.split()) for name, text in _ENTRY.findall(entries)}
    variadic = [parameter for parameter in parameters if parameter.variadic]
    needed = [
        parameter.name.upper() if parameter.required else f"[{parameter.name.upper()}]"
        for parameter in parameters
        if parameter.required or (variadic and not parameter.by_name and not parameter.variadic)
    ]
    parser = _Parser(
        prog=program,
        usage=" ".join([program, *needed, *(f"[{each.name.upper()} ...]" for each in variadic), "[FLAGS]"]),
        description=what.strip(),
        epilog="\n".join(f"{each.name.upper()}: {texts.get(each.name, '')}" for each in variadic),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    flags = [parameter for parameter in parameters if not parameter.variadic]
    initials = ["h", *(parameter.name[0] for parameter in flags)]
    for parameter in flags:
        names = [parameter.flag, *([f"--{parameter.name.replace('_', '-')}"] if "_" in parameter.name else [])]
        if initials.count(parameter.name[0]) == 1:
            names.append(f"-{parameter.name[0]}")
        shown = "" if parameter.required or parameter.default is None else f" (default: {parameter.default})"
        text = (texts.get(parameter.name, "") + shown).replace("%", "%%")
        metavar = "True|False" if parameter.kind is bool else parameter.name.upper()
        parser.add_argument(*names, dest=parameter.name, metavar=metavar, help=text)
    return parser


def _with_values(words: Sequence[str], parameters: Sequence[Parameter]) -> Iterator[str]:
    """The words, with flag and value in one where argparse would not see that they belong together.

    A switch takes the next word only if that is True or False; a negative number is a value, in any notation.
    """
    switches = _switches(parameters)
    rest = iter(zip(words, [*words[1:], ""]))
    for word, following in rest:
        if word in switches and following.lower() not in _BOOLEANS:
            yield switches[word]
        elif word.startswith("--") and "=" not in word and _NEGATIVE_NUMBER.match(following):
            yield f"{word}={following}"
            next(rest)
        else:
            yield word


def _switches(parameters: Sequence[Parameter]) -> Mapping[str, str]:
    """`--crops` -> `--crops=True`, `--nocrops` -> `--crops=False`, with dashes too."""
    found = {}
    for parameter in parameters:
        for name in {parameter.name, parameter.name.replace("_", "-")} if parameter.kind is bool else ():
            found[f"--{name}"] = f"{parameter.flag}=True"
            found[f"--no{name}"] = found[f"--no-{name}"] = f"{parameter.flag}=False"
    return found


def _refuse_unknown(rest: Sequence[str], flags: Sequence[str], program: str) -> None:
    """What argparse leaves is a value, or a flag that the verb does not have; a dash before a digit or a space is text."""
    for word in rest:
        name = word.partition("=")[0]
        if re.match(r"--?[A-Za-z]", name) and " " not in name:
            close = difflib.get_close_matches(name.replace("-", "_").replace("__", "--", 1), flags, 1)
            hint = f" (is {close[0]} meant?)" if close else ""
            raise IdClipError(f"{name} is no flag of `{program}`{hint}{_see_help(program)}")


def _value(word: str, parameter: Parameter) -> object:
    if parameter.optional and parameter.kind is not str and word == "None":
        return None
    if parameter.required and not word:
        raise IdClipError(f"{parameter.flag} is empty")
    read, expected = _READERS[parameter.kind]
    try:
        value = read(word)
    except (ValueError, KeyError):
        raise IdClipError(f"{parameter.flag} is '{word}', and must be {expected}") from None
    if parameter.name in _MANY and isinstance(value, int) and value > _MANY[parameter.name]:
        raise IdClipError(f"{parameter.flag} is {value}, and may be {_MANY[parameter.name]} at most")
    return value


def _text(word: str) -> str:
    """Whatever can be written as UTF-8; old names of files cannot, and nothing new is to be named or called so."""
    try:
        word.encode()
    except UnicodeEncodeError:
        if not os.path.lexists(word):
            raise
    return word


def _whole_number(word: str) -> int:
    number = int(word)
    if abs(number) > _MOST:
        raise ValueError
    return number


def _number(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError
    return number


_BOOLEANS = {"true": True, "false": False}
_READERS: Mapping[type, tuple[Callable[[str], object], str]] = {
    str: (_text, "text in UTF-8, or the name of something that is there"),
    int: (_whole_number, "a whole number"),
    float: (_number, "a number"),
    bool: (lambda word: _BOOLEANS[word.lower()], "True or False"),
}
