"""What the start-up hook (`idclip hosts --autoload on`) costs every start of Python: two environments, with and without it.

Paired: both start in turns, `python -c pass`, each compiled and read once before; the figure to quote is the median of the
differences. Beside it what importing wrapt at every start would cost, and, with --imports, `import open_clip` with and without.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

from open_clip_idplugin.hosts.autoload import switch_on

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print medians and ranges in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--imports", type=int, default=0, help="rounds of `import open_clip`, each of some 20 seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, hooked = create_environment(Path(folder, "plain")), create_environment(Path(folder, "hooked"))
        (packages,) = Path(folder, "hooked").glob("lib/python*/site-packages")
        switch_on(packages)
        print(json.dumps({"python": platform.python_version(), "cpu": platform.machine()}))
        report("the hook", paired(hooked, plain, "pass", "pass", arguments.rounds))
        report("import wrapt", paired(plain, plain, "import wrapt", "pass", max(2, arguments.rounds // 5)))
        if arguments.imports:
            code = "import open_clip"
            report("the hook, with import open_clip", paired(hooked, plain, code, code, arguments.imports))


def create_environment(folder: Path) -> Path:
    """A virtual environment that reads this checkout and this environment's packages; returns its Python."""
    venv.EnvBuilder(symlinks=True).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "packages.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return folder / "bin" / "python"


def paired(ours: Path, theirs: Path, our_code: str, their_code: str, rounds: int) -> list[tuple[float, float]]:
    """Seconds of wall and processor time by which ours takes longer, of each round; which side is first changes."""
    spent(ours, our_code), spent(theirs, their_code)
    differences = []
    for number in range(rounds):
        sides = [(ours, our_code), (theirs, their_code)][:: 1 if number % 2 else -1]
        first, second = (spent(*side) for side in sides)
        mine, others = (first, second) if number % 2 else (second, first)
        differences.append((mine[0] - others[0], mine[1] - others[1]))
    return differences


def spent(python: Path, code: str) -> tuple[float, float]:
    """Wall and processor seconds of one process, from start to end; its bytecode is kept, as it is for users."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    start = time.perf_counter()
    process = subprocess.Popen([python, "-c", code], env=surroundings, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{python} -c {code!r} failed")
    return wall, usage.ru_utime + usage.ru_stime


def report(title: str, differences: list[tuple[float, float]]) -> None:
    """Print the medians of the differences and the middle half of them."""
    for kind, values in zip(("wall", "processor"), zip(*differences)):
        low, middle, high = (value * 1e3 for value in statistics.quantiles(values, n=4))
        print(
            f"{title}, {kind} time: {middle:+.2f} ms a start (median of {len(values)}; half: {low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
