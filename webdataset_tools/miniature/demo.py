"""The verb `idclip demo`: nothing -> a small world, a model and a search; ends with a table and `report.html`.

Role: `demo_steps`, then `demo_results`. An interrupted demo goes on where it stopped.
"""

from pathlib import Path

from open_clip_idplugin.command_line.missing_packages import require_extras
from open_clip_idplugin.errors import IdClipError
from webdataset_tools.miniature import demo_steps as steps


def demo(output: str = "demo", seed: int = 0, workers: int = 2, epochs: int = 3) -> None:
    """Make, train, evaluate, index and search a small drawn world; ends with a table and OUTPUT/report.html.

    Args:
        output: folder for everything that is made.
        seed: of the drawn world and of training.
        workers: processes that draw, pack and decode.
        epochs: of training, 64 steps each.
    """
    if epochs < 1 or workers < 1:
        raise IdClipError("--epochs and --workers must be at least 1")
    require_extras("train", "faces", "serve")
    run = steps.Demo(Path(output), seed, workers, epochs)
    steps.make_world(run)
    steps.pack(run)
    steps.train(run)
    from webdataset_tools.miniature.demo_results import evaluate_and_search  # imports open_clip, which takes seconds

    evaluate_and_search(run)
    print("\n" + "  ".join(f"{title} {seconds:.0f} s" for title, seconds in run.seconds.items()))
    print(f"Wrote {run.output / 'report.html'}; open it in a browser")
    print(
        f"Next: idclip serve --index {run.index} --model {steps.MODEL} --checkpoint {run.checkpoint} "
        f"--gallery {run.gallery} --faces {steps.FACES} --det_size {steps.DETECTOR_SIDE}"
    )
    print("and open http://127.0.0.1:1234 in a browser")
