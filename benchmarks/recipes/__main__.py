"""`python -m benchmarks.recipes`, from the project's folder; `--help` has its flags."""

from benchmarks.recipes.command import benchmark
from open_clip_idplugin.cli import main_of

if __name__ == "__main__":
    main_of(benchmark, "python -m benchmarks.recipes")
