"""The verb `idclip shards`: one split of a COCO-PFS release -> webdataset shards.

Role: plan (which sample goes into which shard), run the packing workers, write the lists and the report. Input: a
release's folder; output: `00000.tar` ..., `sizes.json`, `index.json`, `report.json`. The plan depends on the release,
the seed and the shard size alone, so any number of workers, and any number of interruptions, give the same bytes.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from open_clip_idplugin.command_line.verb_arguments import require_whole_number
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import Place, is_folder, location
from open_clip_idplugin.storage.output_folder import CONTENT, claimed_folder, disk_errors_explained
from open_clip_idplugin.storage.reports import count_reasons
from webdataset_tools import face_crops, shard_folder
from webdataset_tools.image_check import CHECKS, STRUCTURE
from webdataset_tools.release import ReleaseSplit, load_release
from webdataset_tools.release_face_model import agreed_model
from webdataset_tools.shard_plan import SAMPLES_PER_SHARD, parse_size, plan_shards, plan_shards_by_size, sizes_in_tar
from webdataset_tools.shard_report import BuildReport
from webdataset_tools.shard_writer import PackSettings, ShardStats, ShardTask, start_packing
from webdataset_tools.worker_pool import PROCESSES, check_distributor, check_reachable, run_tasks

CROPS = ("photo", "image", "none")
NAMES = ("required", "optional")


@dataclass(frozen=True)
class ShardOptions:
    """What to pack and how; the flags of `idclip shards`.

    Raises IdClipError when a value is not allowed.
    """

    release: Place
    split: str
    output: Place
    photos: Place | None = None
    crops: str | None = None
    faces: str = "insightface:buffalo_l"
    det_size: int | None = None
    names: str = "required"
    face_model: str | None = None
    embedding_size: int | None = None
    samples_per_shard: int | None = None
    bytes_per_shard: int | str | None = None
    verify: str = STRUCTURE
    workers: int = 2
    seed: int = 0
    distributor: str = PROCESSES
    features: Place | None = None

    def __post_init__(self) -> None:
        for name in ("det_size", "embedding_size", "samples_per_shard", "workers"):
            if name != "workers" and getattr(self, name) is None:
                continue
            require_whole_number(f"--{name}", getattr(self, name), 1)
        if self.bytes_per_shard is not None:
            parse_size(self.bytes_per_shard)
            if self.samples_per_shard is not None:
                raise IdClipError("give --samples_per_shard or --bytes_per_shard, not both")
        require_whole_number("--seed", self.seed)
        if self.names not in NAMES:
            raise IdClipError(f"--names must be {' or '.join(NAMES)}, not '{self.names}'")
        if self.verify not in CHECKS:
            raise IdClipError(f"--verify must be one of {', '.join(CHECKS)}, not '{self.verify}'")
        check_distributor(self.distributor)
        if self.crops not in (None, *CROPS):
            raise IdClipError(f"--crops must be one of {', '.join(CROPS)}, not '{self.crops}'")
        if self.crops == "photo" and not self.photos:
            raise IdClipError("--crops photo needs --photos FOLDER, laid out as <identity id>/*.jpg")
        if self.photos and not is_folder(location(self.photos)):
            raise IdClipError(
                f"there is no photo folder {self.photos}; --photos must name one with <identity id>/*.jpg"
            )

        for place in (self.release, self.output, self.photos):
            if place:
                check_reachable(location(place), self.workers, self.distributor)

    @property
    def crop_source(self) -> str:
        """Where crops come from: photo, image or none."""
        return self.crops or ("photo" if self.photos else "image")


def shards(
    release: str,
    split: str,
    output: str,
    photos: str | None = None,
    crops: str | None = None,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    names: str = "required",
    face_model: str | None = None,
    embedding_size: int | None = None,
    samples_per_shard: int | None = None,
    bytes_per_shard: str | None = None,
    verify: str = STRUCTURE,
    workers: int = 2,
    seed: int = 0,
    distributor: str = PROCESSES,
    features: str | None = None,
) -> None:
    """Pack one split of a COCO-PFS release into webdataset shards; run it again to go on after an interruption.

    Args:
        release: top folder of the release (the one with coco_dataset); like --output and --photos a path or a URL.
        split: train, val or test; with --features any name.
        output: folder for the shards.
        photos: folder of identity photos, <identity id>/*.jpg; face crops are then taken from these.
        crops: photo, image (the face in the swapped image) or none; photo where photos are given, else image.
        faces: face engine that finds the crops, such as insightface:buffalo_l or insightface:FOLDER.
        det_size: side of the square in which the face detector sees a picture; None takes the face engine's own.
        names: required (people without a name are left out) or optional (their id stands in).
        face_model: model that made the release's embeddings, noted in every sample; None takes what the release notes.
        embedding_size: length of the release's face embeddings; None takes what the release notes, else 512.
        samples_per_shard: most samples a shard, 1000 if neither this nor bytes_per_shard is given; they are spread evenly.
        bytes_per_shard: size of a shard, such as 500MB, in place of a number of samples.
        verify: structure (every image is whole, by its markers), decode (and without a damaged spot; slow) or none.
        workers: packing processes.
        seed: of the order of the samples.
        distributor: processes on this machine, or pyspark.
        features: a split of your own: JSON file with <image id>_<identity id> -> face embedding, as the release's own; its keys
            are the split, and pictures and captions are those of the release's split that holds them.
    """
    options = ShardOptions(**locals())
    report = build_shards(options)
    print("\n".join(report.lines()))
    print(f"wrote {output}: the shards, sizes.json, index.json and report.json")
    print(f"next: idclip inspect {output}/00000.tar, or train on --train-data '{shard_pattern(output, report.shards)}'")


def shard_pattern(folder: Place, count: int) -> str:
    """Return the brace notation of `count` shards, as open_clip's --train-data takes it."""
    names = "00000" if count == 1 else f"{{00000..{count - 1:05d}}}"
    return f"{folder}/{names}.tar"


def build_shards(options: ShardOptions, load_engine: "partial[Any] | None" = None) -> BuildReport:
    """Pack as `options` say and return the report, which also lies beside the shards.

    `load_engine` () -> FaceFinder replaces the engine that `options.faces` names; it must be picklable.
    Raises IdClipError on bad input, when the output folder holds other shards, and when no sample is left.
    """
    with disk_errors_explained(location(options.output)):
        return _build(options, load_engine)


def _build(options: ShardOptions, load_engine: "partial[Any] | None") -> BuildReport:
    names_required = options.names == "required"
    split = load_release(options.release, options.split, options.embedding_size, names_required, options.features)
    if not split.samples:
        raise IdClipError(f"no sample of {options.split} can be packed: {count_reasons(split.skipped)}")
    tasks = _plan(options, split)
    settings = _settings(options, split, load_engine)
    with claimed_folder(settings.output, _parameters(options, tasks, settings), shard_folder.SHARDS):
        stats = _pack(settings, tasks, options.workers, options.distributor)
        report = _summarise(split, tasks, stats)
        shard_folder.write_lists(settings.output, f"{split.source}-{split.split}", stats, report)
    return report


def _plan(options: ShardOptions, split: ReleaseSplit) -> list[ShardTask]:
    if options.bytes_per_shard is None:
        return plan_shards(split.samples, options.samples_per_shard or SAMPLES_PER_SHARD, options.seed)
    sizes = sizes_in_tar(split.samples, split.images, options.crop_source != "none")
    return plan_shards_by_size(split.samples, sizes, parse_size(options.bytes_per_shard), options.seed)


def _settings(options: ShardOptions, split: ReleaseSplit, load_engine: "partial[Any] | None") -> PackSettings:
    folder, photos = None, {}
    if options.crop_source == "photo" and options.photos:
        folder = location(options.photos).resolve()
        photos = face_crops.find_photos(folder, (sample.identity_id for sample in split.samples))
    return PackSettings(
        output=location(options.output).resolve(),
        images=split.images,
        source=split.source,
        split=split.split,
        face_model=agreed_model(split.face_model, options.face_model),
        crops=options.crop_source,
        verify=options.verify,
        load_engine=load_engine or _engine(options),
        photo_folder=folder,
        photos=photos,
    )


def _engine(options: ShardOptions) -> "partial[Any]":
    threads = 1 if options.workers > 1 else None  # more would fight over the cores
    return partial(face_crops.load_engine, options.faces, options.det_size, threads)


def _engine_name(options: ShardOptions) -> str:
    return options.faces + (f" at {options.det_size}" if options.det_size else "")


def _parameters(options: ShardOptions, tasks: list[ShardTask], settings: PackSettings) -> dict[str, Any]:
    by_size = options.bytes_per_shard is not None
    return {
        "release": settings.source,
        "split": settings.split,
        "samples_per_shard": None if by_size else options.samples_per_shard or SAMPLES_PER_SHARD,
        "bytes_per_shard": parse_size(options.bytes_per_shard) if by_size else None,
        "seed": options.seed,
        "crops": options.crop_source,
        "faces": None if options.crop_source == "none" else _engine_name(options),
        "face_model": settings.face_model,
        "verify": options.verify,
        CONTENT: shard_folder.fingerprint(tasks, settings.photos),
    }


def _pack(settings: PackSettings, tasks: list[ShardTask], workers: int, distributor: str) -> list[ShardStats]:
    """Make the shards that are not finished yet and return the stats of all, in order."""
    output = settings.output
    known = [shard_folder.read_stats(output, task) for task in tasks]
    finished = {stats.name: stats for stats in known if stats is not None}
    todo = [task for task in tasks if task.name not in finished]
    total, left = (sum(len(task.samples) for task in some) for some in (tasks, todo))
    with tqdm(total=total, initial=total - left, unit="images", desc=f"packing {settings.split}", smoothing=0.1) as bar:
        for stats in run_tasks(partial(start_packing, settings), todo, workers, bar, distributor):
            shard_folder.write_stats(output, stats)
            finished[stats.name] = stats
    return [finished[task.name] for task in tasks]


def _summarise(split: ReleaseSplit, tasks: list[ShardTask], stats: list[ShardStats]) -> BuildReport:
    skipped = [*split.skipped, *(skip for shard in stats for skip in shard.skipped)]
    left_out = {skip.key for shard in stats for skip in shard.skipped}
    packed = [sample for task in tasks for sample in task.samples if sample.key not in left_out]
    crops: Counter[str] = Counter()
    for shard in stats:
        crops.update(shard.crops)
    return BuildReport(
        source=split.source,
        split=split.split,
        samples=sum(shard.samples for shard in stats),
        shards=len(stats),
        images=len({sample.image_id for sample in packed}),
        identities=len({sample.identity_id for sample in packed}),
        crops=dict(sorted(crops.items())),
        skipped=skipped,
        without_crop=[skip for shard in stats for skip in shard.without_crop],
    )
