"""The command `python -m benchmarks.recipes` (`make bench`)."""

import inspect
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.output_folder import locked

if TYPE_CHECKING:
    from benchmarks.recipes.cells import Bench, Cell
    from benchmarks.recipes.running import Failure

_PLACES = ("output", "world", "docs")  # do not change a number


def benchmark(
    output: str = "benchmark",
    recipes: str = "all",
    seeds: str = "0,1,2",
    size: str = "demo",
    world: str | None = None,
    world_seed: int = 0,
    configurations: str = "captions,names,conf1",
    templates: str = "0",
    splits: str = "val,test",
    model: str = "IdCLIP-ViT-miniature",
    pretrained: str = "miniature",
    steps: int | None = None,
    workers: int = 2,
    docs: str | None = None,
    model_config: str | None = None,
) -> None:
    """Train recipes with several seeds in a drawn world, evaluate them on unseen people and write a report.

    Run it again to go on after an interruption, or to add recipes and seeds; finished cells are not run again, and the report
    shows all that have the same world, weights and questions.

    Args:
        output: folder for the world, the results and the report.
        recipes: names separated by commas, or all.
        seeds: of training, separated by commas.
        size: of the world: tiny, demo or benchmark (validation is as large as test).
        world: its folder, to be shared by several benchmarks; OUTPUT/world-SIZE-SEED where none is given.
        world_seed: another seed draws another world.
        configurations: of captions, names, conf1 to conf6, separated by commas; what general retrieval asks.
        templates: all 11 texts of a caption, or the numbers of some (0 is "An image with [ENTITY]. [CAPTION]").
        splits: to evaluate; val alone while recipes are chosen.
        model: a model name.
        pretrained: its weights, a tag or a file.
        steps: optimizer steps in place of each recipe's own.
        workers: cells at a time; each gets its share of the cores.
        docs: a folder whose benchmark.md and recipe.md get the results between their markers, and the pictures beside them.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
    """
    told = _command(locals())
    from benchmarks.recipes.cell_training import remove_stopped_runs
    from benchmarks.recipes.cells import EVALUATED, Bench, cells_of
    from benchmarks.recipes.docs_pages import check_docs
    from benchmarks.recipes.machine import machine, versions
    from benchmarks.recipes.recipes import choose
    from benchmarks.recipes.running import run_cells
    from benchmarks.recipes.world import World, make_world
    from open_clip_idplugin.command_line.devices import fast_precision
    from open_clip_idplugin.evaluation.protocols import Settings
    from open_clip_idplugin.prompts import GENERAL_TEMPLATES

    if model_config is not None:
        from open_clip_idplugin.hosts.registration import add_models

        add_models(model_config)  # known to the processes that train, too
    chosen, numbers = choose(recipes), _numbers(seeds)
    if workers < 1 or (steps is not None and steps < 1):
        raise IdClipError("--workers and --steps must be at least 1")
    queries, evaluated = _words(configurations), _words(splits)
    if not evaluated or set(evaluated) - set(EVALUATED):
        raise IdClipError(f"--splits is {splits!r}; give {', '.join(EVALUATED)} or one of them")
    Settings(queries, templates=templates)  # refuses what it does not know
    if docs is not None:
        check_docs(Path(docs))
    place = World(Path(world) if world else Path(output) / f"world-{size}-{world_seed}")
    bench = Bench(
        output=Path(output),
        world=place,
        model=model,
        pretrained=pretrained,
        configurations=queries,
        templates=templates,
        splits=tuple(split for split in EVALUATED if split in evaluated),
        steps=steps,
        precision=fast_precision(),
        threads=max(1, (os.cpu_count() or 1) // workers),
    )
    with locked(bench.output):
        remove_stopped_runs(bench.output)
        make_world(place, size, world_seed, workers)
        cells = cells_of(chosen, numbers)
        print(f"{len(cells)} cells: {len(chosen)} recipes, seeds {', '.join(map(str, numbers))}", flush=True)
        failures = run_cells(bench, cells, workers)
        about = {
            "command": f"`{told}`",
            "world": f"{size}, seed {world_seed}",
            "model": f"{model}, {pretrained}",
            "weights (SHA-256)": bench.weights["weights"],
            "wordings of a caption": f"{'all' if templates == 'all' else f'number {templates}'} of {len(GENERAL_TEMPLATES)}",
            "precision of training": bench.precision,
            "versions": versions(),
            "machine": machine(),
        }
        _report(bench, cells, failures, about, Path(docs) if docs else None)


def _report(
    bench: "Bench", cells: "list[Cell]", failures: "list[Failure]", about: dict[str, Any], docs: Path | None
) -> None:
    """Write the report of what there is, then say what is missing."""
    from benchmarks.recipes.collecting import collect
    from benchmarks.recipes.docs_pages import write_docs
    from benchmarks.recipes.findings import gather
    from benchmarks.recipes.report import write_report

    collected = collect(bench, cells)
    others = len(collected.results) - collected.asked
    if others:
        about["cells of earlier commands"] = f"{others}, with the same world, weights and questions"
    if collected.results:
        findings = gather(collected.results, about)
        paths = write_report(bench.output, findings, bench.world)
        print(
            f"Wrote {', '.join(path.name for path in paths)} to {bench.output}: {collected.asked} of {len(cells)} cells"
        )
        if docs is not None:
            print(f"Wrote {', '.join(path.name for path in write_docs(docs, findings, bench.world))} for {docs}")
    if failures:
        first = failures[0]
        raise IdClipError(
            f"{len(failures)} of {len(cells)} cells failed, such as {first.label}: {first.reason}; run the same command "
            "again to try them anew"
        )
    print(f"Next: open {bench.output / 'report.html'}")


def _command(given: Mapping[str, Any]) -> str:
    """The command line that gives the same numbers: every flag that is not its default, but for places."""
    parameters = inspect.signature(benchmark).parameters
    flags = {name: value for name, value in given.items() if name in parameters and value != parameters[name].default}
    flags = {name: value for name, value in flags.items() if name not in _PLACES}
    return shlex.join(
        [
            "python",
            "-m",
            "benchmarks.recipes",
            *(word for name, value in flags.items() for word in (f"--{name}", str(value))),
        ]
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(word) for word in str(text).split(",")))
    except ValueError:
        raise IdClipError(f"--seeds is {text!r}; give whole numbers separated by commas") from None
