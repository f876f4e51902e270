"""The generated parts of docs/benchmark.md and docs/recipe.md, and their pictures.

Role: sections -> text between two markers; what people wrote around them stays. Neither places of this machine nor anything
that changes from run to run with the same numbers gets in.
"""

from pathlib import Path

from benchmarks.recipes.findings import Findings
from benchmarks.recipes.pages import Section, to_markdown_page, write_pictures
from benchmarks.recipes.report import facts_of, recipe_sections, result_sections
from benchmarks.recipes.world import World
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.atomic import PUBLIC, atomic_write

BEGIN = "<!-- Written by `python -m benchmarks.recipes --docs`: edit outside of these two lines. -->"
END = "<!-- End of what `python -m benchmarks.recipes --docs` wrote. -->"
RESULTS, RECIPE, PICTURES = "benchmark.md", "recipe.md", "benchmark"
_TITLES = {RESULTS: "# Benchmark", RECIPE: "# Recipe"}


def write_docs(folder: Path, findings: Findings, world: World | None) -> list[Path]:
    """Replace the generated parts; pages that are not there are begun. Returns everything that was written.

    Raises IdClipError for a page without the two markers.
    """
    parts: dict[str, list[Section]] = {RESULTS: result_sections(findings, world), RECIPE: recipe_sections(findings)}
    facts = facts_of(findings)
    pages = {
        name: put_between(folder / name, _TITLES[name], to_markdown_page(facts, sections, PICTURES))
        for name, sections in parts.items()
    }
    written = []
    for name, text in pages.items():
        atomic_write(folder / name, text)
        written += [folder / name, *write_pictures(folder / PICTURES, parts[name], PUBLIC)]
    return written


def check_docs(folder: Path) -> None:
    """Raise IdClipError for pages that `write_docs` would refuse."""
    for name, title in _TITLES.items():
        put_between(folder / name, title, "")


def put_between(page: Path, title: str, part: str) -> str:
    """The page with `part` between its markers; a page with a title alone where there is none."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{title}\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (begin and end) or BEGIN in rest or END in after:
        raise IdClipError(f"{page} lacks the lines between which results go; add {BEGIN} and {END}, a line each, once")
    return f"{before}{begin}\n{part.rstrip()}\n\n{end}{after}"
