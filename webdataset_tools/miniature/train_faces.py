"""Make the miniature face pack, step by step and without a clock: `python -m webdataset_tools.miniature.train_faces`.

Drawn people -> trained detector and recogniser -> ONNX pack -> its measures. The pack that is shipped comes from the
default options; equal options and thread counts give equal weights up to rounding.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.storage.atomic import atomic_path
from webdataset_tools.miniature.face_detection_training import train_detector
from webdataset_tools.miniature.face_measures import measure_pack
from webdataset_tools.miniature.face_nets import Detector, Recogniser
from webdataset_tools.miniature.face_pack import write_metrics, write_pack
from webdataset_tools.miniature.face_recognition_training import train_recogniser
from webdataset_tools.miniature.face_samples import draw_crops, draw_detection_set


def make_face_pack(
    output: str,
    people: int = 2500,
    photos: int = 20,
    recogniser_steps: int = 2000,
    pictures: int = 5000,
    detector_steps: int = 2500,
    workers: int = 2,
    seed: int = 0,
) -> None:
    """Draw people, train both networks, and write the pack and its metrics.

    Each network is kept in the folder `<output>_stages` once it is trained, so that a killed run goes on behind it.

    Args:
        output: folder of the pack.
        people: drawn people that the recogniser learns, all of the pool "faces".
        photos: pictures of each, every fourth a face in a scene.
        recogniser_steps: batches of 128 crops.
        pictures: scenes and portraits that the detector learns from.
        detector_steps: batches of 32 pictures.
        workers: drawing processes; also torch's threads.
        seed: of weights and of the order of pictures.
    """
    torch.set_num_threads(workers)
    folder = Path(output)
    stages = folder.with_name(f"{folder.name}_stages")
    detector = _trained(
        Detector(),
        stages / f"detector_{pictures}_{detector_steps}_{seed}.pt",
        lambda: train_detector(draw_detection_set(0, pictures, workers), detector_steps, seed=seed),
    )
    recogniser = _trained(
        Recogniser(),
        stages / f"recogniser_{people}_{photos}_{recogniser_steps}_{seed}.pt",
        lambda: train_recogniser(draw_crops(0, people, photos, workers), recogniser_steps, seed=seed),
    )
    write_pack(folder, detector, recogniser)
    steps = {"people": people, "photos": photos, "recogniser_steps": recogniser_steps}
    steps |= {"pictures": pictures, "detector_steps": detector_steps, "seed": seed}
    write_metrics(folder, {"training": steps} | measure_pack(load_face_engine(f"insightface:{folder.resolve()}")))
    print(f"Wrote the face pack {folder} and its measures {folder / 'metrics.json'}.")
    print("Next: idclip miniature --output RELEASE draws a release whose faces this pack knows.")


def _trained(blank: nn.Module, path: Path, train: Callable[[], nn.Module]) -> nn.Module:
    """Fill `blank` with the weights in `path`, which are trained and stored first where there are none."""
    if not path.exists():
        with atomic_path(path) as temporary:
            torch.save(train().state_dict(), temporary)
    blank.load_state_dict(torch.load(path, weights_only=True))
    return blank.eval()


if __name__ == "__main__":
    from open_clip_idplugin.cli import main_of

    main_of(make_face_pack, "python -m webdataset_tools.miniature.train_faces")
