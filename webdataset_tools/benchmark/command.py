"""The verb `idclip benchmark`."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.folder_lock import locked

if TYPE_CHECKING:
    from webdataset_tools.benchmark.cells import Bench, Cell
    from webdataset_tools.benchmark.running import Failure


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
) -> None:
    """Train recipes with several seeds in a drawn world, evaluate them on unseen people and write a report.

    Run it again to go on after an interruption, or to add recipes and seeds; finished cells are not run again.

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
    """
    from open_clip_idplugin.evaluation.protocols import Settings
    from webdataset_tools.benchmark.cells import EVALUATED, Bench, cells_of
    from webdataset_tools.benchmark.recipes import choose
    from webdataset_tools.benchmark.running import run_cells
    from webdataset_tools.benchmark.training import remove_stopped_runs
    from webdataset_tools.benchmark.world import World, make_world
    from webdataset_tools.miniature.cpu_precision import fast_precision

    chosen, numbers = choose(recipes), _numbers(seeds)
    if workers < 1 or (steps is not None and steps < 1):
        raise IdClipError("--workers and --steps must be at least 1")
    queries, evaluated = _words(configurations), _words(splits)
    if not evaluated or set(evaluated) - set(EVALUATED):
        raise IdClipError(f"--splits is {splits!r}; give {', '.join(EVALUATED)} or one of them")
    Settings(queries, templates=templates)  # refuses what it does not know
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
        flags = {"--recipes": recipes, "--seeds": seeds, "--splits": splits, "--size": size}
        flags |= {"--configurations": configurations, "--templates": templates}
        about = {
            "command": shlex.join(["idclip", "benchmark", *(word for pair in flags.items() for word in pair)]),
            "world": f"{size}, seed {world_seed}",
            "model": f"{model}, {pretrained}",
            "weights (SHA-256)": bench.weights["weights"],
            "precision of training": bench.precision,
        }
        _report(bench, cells, failures, about)


def _report(bench: "Bench", cells: "list[Cell]", failures: "list[Failure]", about: dict[str, Any]) -> None:
    """Write the report of what there is, then say what is missing."""
    from webdataset_tools.benchmark.cells import read_result
    from webdataset_tools.benchmark.report import write_report

    results = [result for cell in cells if (result := read_result(cell.result_file(bench))) is not None]
    if results:
        paths = write_report(bench.output, results, about)
        print(
            f"Wrote {' and '.join(path.name for path in paths)} to {bench.output}: {len(results)} of {len(cells)} cells"
        )
    if failures:
        first = failures[0]
        raise IdClipError(
            f"{len(failures)} of {len(cells)} cells failed, such as {first.label}: {first.reason}; run the same command "
            "again to try them anew"
        )
    print(f"Next: read {bench.output / 'report.md'}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(word) for word in str(text).split(",")))
    except ValueError:
        raise IdClipError(f"--seeds is {text!r}; give whole numbers separated by commas") from None
