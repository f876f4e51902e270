"""Supported hosts and extras: the patch tables and the table of optional packages -> one table, for people and for checks.

Role: the table `SUPPORT` of docs/hosts.md is made here, and `idclip doctor` checks the same rows against what is installed.
"""

import importlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from open_clip_idplugin.command_line.missing_packages import install_command, modules_of
from open_clip_idplugin.hosts.patches import PatchRow


@dataclass(frozen=True)
class Host:
    """A program that this one changes or relies on.

    package: as it is imported; distribution: as it is installed; extra: that brings it, empty where the plugin itself does.
    tables: its patch rows, each as `module:attribute`: a row, rows, or a function that returns them. Some stand in
    `training_patches`, which no module of this package imports.
    """

    package: str
    distribution: str
    extra: str
    purpose: str
    tables: tuple[str, ...]

    def rows(self) -> Sequence[PatchRow]:
        """Its patch rows; raises ImportError where what they replace cannot be imported."""
        rows: list[PatchRow] = []
        for place in self.tables:
            module, _, attribute = place.partition(":")
            table = getattr(importlib.import_module(module), attribute)
            table = table() if callable(table) else table
            rows += [table] if isinstance(table, PatchRow) else table
        return rows


HOSTS = (
    Host("open_clip", "open_clip_torch", "", "the models", ("open_clip_idplugin.hosts.open_clip_rows:OPEN_CLIP",)),
    Host("open_clip_train", "open_clip_torch", "train", "training", ("training_patches.host_rows:all_rows",)),
    Host(
        "clip_retrieval",
        "clip-retrieval",
        "serve",
        "indexing, search and the service",
        ("open_clip_idplugin.hosts.clip_retrieval:all_rows", "open_clip_idplugin.retrieval.index.factory_key:OPQ"),
    ),
)

# Extra -> what it is for, in the order in which people need them.
PURPOSES: Mapping[str, str] = {
    "faces": "face models, enrolling, face tables and swaps",
    "search": "searching an index folder, without clip-retrieval",
    "serve": "indexing, search and the service",
    "train": "shards, training and evaluation",
    "dlib": "dlib's face models",
    "heic": "photographs of iPhones",
    "spark": "work on a Spark cluster (and Java)",
    "dev": "benchmarks' plots and the tests",
}


def checked_with(rows: Sequence[PatchRow]) -> str:
    """The versions with which rows were checked, each once."""
    return ", ".join(dict.fromkeys(itertools.chain.from_iterable(row.hosts.split(", ") for row in rows)))


def support_table() -> str:
    """Markdown: hosts with the versions that were run and what is replaced in them, then extras with their install lines."""
    return "\n".join([*_host_lines(), "", *_extra_lines()])


def _host_lines() -> Iterator[str]:
    yield "| host | for | run with | replaced | relied on unchanged |"
    yield "|---|---|---|---|---|"
    for host in HOSTS:
        rows = host.rows()
        replaced = [row.targets[0] for row in rows if row.replacement is not None]
        names = ", ".join(f"`{target.partition(':')[2]}`" for target in replaced)
        package = f"{host.package} (extra `{host.extra}`)" if host.extra else host.package
        yield f"| {package} | {host.purpose} | {checked_with(rows)} | {names} | {len(rows) - len(replaced)} names |"


def _extra_lines() -> Iterator[str]:
    yield "| extra | for | modules | install |"
    yield "|---|---|---|---|"
    for extra, purpose in PURPOSES.items():
        yield f"| `{extra}` | {purpose} | {', '.join(modules_of(extra))} | `{install_command(extra)}` |"
