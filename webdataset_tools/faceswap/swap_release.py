"""COCO + identity photos -> a COCO-PFS release: the stages of `idclip swap` in their order.

Role: read and check the inputs, select people and scenes (processes), split and assign (pure), swap and verify (processes),
write the release's files. Everything depends on the inputs, the options and the seed alone, so that any number of workers,
here or on Spark, and of interruptions give the same bytes.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location, location
from open_clip_idplugin.storage.output_folder import CONTENT, claimed_folder, disk_errors_explained
from open_clip_idplugin.storage.reports import Skip, count_reasons, write_report
from webdataset_tools.faceswap import coco, reasons, release_output, swap_folder, swap_report
from webdataset_tools.faceswap.assignment import assign, split_by_share
from webdataset_tools.faceswap.face_scan import EngineLoader, load_engine
from webdataset_tools.faceswap.identities import SPLIT
from webdataset_tools.faceswap.inputs import SwapInputs, fingerprint, read_inputs
from webdataset_tools.faceswap.manifest import MANIFEST_FILE, write_manifest
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.pairing import photos_for
from webdataset_tools.faceswap.swap_report import REPORT_FILE, SwapReport
from webdataset_tools.faceswap.swap_selection import (
    Lenders,
    RunStage,
    Scene,
    SplitSelection,
    select_people,
    select_scenes,
)
from webdataset_tools.faceswap.swap_sheet import write_contact_sheet
from webdataset_tools.faceswap.swappers import Swapper, SwapperSettings, find_factory
from webdataset_tools.faceswap.swapping import Decision, ImageSwapper, SplitResult, SwapJob, SwappedImage, SwapSettings
from webdataset_tools.faceswap.verification import rules_for
from webdataset_tools.release import COCO_FOLDER, SPLITS
from webdataset_tools.release_face_model import ReleaseFaceModel, write_face_model

VERSION = 4  # raise it when equal inputs and options give another release
REFUSED_FILE = "nothing_swapped.json"  # the report where nothing could be; not that of a finished release
_SWAP_CHUNK = 4  # COCO images a record; each gives several pictures


def build_release(options: SwapOptions, load: EngineLoader | None = None) -> SwapReport:
    """Make the release that `options` describe and return its report; a finished one is only reported.

    `load` () -> face engine replaces the one that `options.faces` names; it must be picklable. Raises IdClipError on bad
    input, when the output folder holds something else, and when nothing can be swapped.
    """
    model = Path(options.swapper_model) if options.swapper_model else None
    settings = SwapperSettings(model, keep_skin=options.keep_skin, whole_face=options.checks == "none")
    create_swapper = partial(find_factory(options.swapper), settings)
    create_swapper()  # a missing model is told now, not after hours of looking for faces
    load = load or partial(load_engine, options.faces, options.det_size)
    output = location(options.output)
    with disk_errors_explained(output):
        inputs = read_inputs(options)
        parameters = {"version": VERSION, **options.parameters(), CONTENT: fingerprint(inputs, model)}
        with claimed_folder(output, parameters, swap_folder.RELEASE):
            swap_folder.remove_half_written(output)
            finished = output / REPORT_FILE
            if locations.is_file(finished):
                report = SwapReport.from_json(json.loads(finished.read_text()))
            else:
                report = _build(options, inputs, load, create_swapper, model)
                write_report(finished, report.to_json())
            swap_folder.clear_work(output)
    return report


def _build(
    options: SwapOptions,
    inputs: SwapInputs,
    load: EngineLoader,
    create_swapper: Callable[[], Swapper],
    model: Path | None,
) -> SwapReport:
    run: RunStage = partial(swap_folder.run_stage, location(options.output), options.workers, options.distributor)
    lenders = select_people(inputs, options, load, run)
    selections = select_scenes(inputs, options, load, run, lenders.face_model)
    values = {key: tuple(matched.values()) for key, matched in lenders.values.items()}
    told = {identity.identity_id: identity.attributes.get(SPLIT, "") for identity in inputs.people.identities}
    fixed = {key: split for key, split in told.items() if split in SPLITS}
    people = split_by_share(values, options.split_shares, options.seed, fixed)
    jobs = {
        selection.split: _assign(selection, people[selection.split], lenders, inputs, options)
        for selection in selections
    }
    if not any(jobs.values()):
        _refuse(selections, lenders, inputs, location(options.output))
    similarity = rules_for(lenders.face_model, options.margin, options.min_similarity, options.max_original)
    settings = SwapSettings(
        load, create_swapper, options.tries, similarity, options.pair_rules, options.quality, options.seed
    )
    results = _swap(selections, jobs, settings, lenders, inputs, run)
    return _write(results, lenders, inputs, options, model)


def _refuse(selections: Sequence[SplitSelection], lenders: Lenders, inputs: SwapInputs, output: Location) -> NoReturn:
    """Raise IdClipError because nothing can be swapped, after writing why of every picture."""
    skipped = [skip for selection in selections for skip in selection.skipped]
    unsplit = [skip for subset in inputs.subsets.values() for skip in subset.skipped]
    report = SwapReport({}, inputs.not_one_person(), lenders.skipped, lenders.skipped_photos, unsplit + skipped)
    write_report(output / REFUSED_FILE, report.to_json())
    counts = count_reasons(skipped) or "COCO has no image of one person"
    raise IdClipError(f"no image can be swapped: {counts}; {output / REFUSED_FILE} has the reason of every picture")


def _assign(
    selection: SplitSelection, people: Sequence[str], lenders: Lenders, inputs: SwapInputs, options: SwapOptions
) -> list[tuple[Scene, SwapJob]]:
    """Return the scenes of a split with their identities; scenes that match nobody are noted as skipped."""
    scenes = {scene.image.image_id: scene for scene in selection.scenes}
    refused: dict[int, Counter[str]] = {image_id: Counter() for image_id in scenes}

    def fits(image_id: int, key: str) -> bool:
        face = scenes[image_id].face
        return bool(photos_for(face, lenders.photos[key], options.pair_rules, refused[image_id]))

    chosen = assign(
        {scene.image.image_id: tuple(scene.values.values()) for scene in selection.scenes},
        {key: tuple(lenders.values[key].values()) for key in people},
        options.people_per_image,
        options.contexts,
        options.seed,
        fits,
    )
    selection.pairs_refused = sum(refused.values(), Counter())
    target = location(options.output) / COCO_FOLDER / SPLITS[selection.split].images
    locations.make_folder(target)
    jobs = []
    for scene in sorted(selection.scenes, key=lambda scene: scene.image.image_id):
        image = scene.image
        faces = {key: lenders.photos[key] for key in chosen[image.image_id]}
        if faces:
            original = inputs.subsets[image.subset].folder / image.file_name
            jobs.append((scene, SwapJob(image, original, target, scene.face, faces)))
        else:
            detail = {**scene.values, **refused[image.image_id]}
            selection.skipped.append(Skip(image.label, reasons.NO_MATCH, json_text(detail, ensure_ascii=False)))
    return jobs


def _swap(
    selections: Sequence[SplitSelection],
    jobs: Mapping[str, list[tuple[Scene, SwapJob]]],
    settings: SwapSettings,
    lenders: Lenders,
    inputs: SwapInputs,
    run: RunStage,
) -> list[SplitResult]:
    """Run the jobs of all splits and return the splits' results."""
    prepare = partial(ImageSwapper, settings, inputs.people.folder)
    tasks = swap_folder.chunked([job for pairs in jobs.values() for _, job in pairs], _SWAP_CHUNK)
    records = run("swaps", tasks, prepare, "swapping")
    made = iter([[Decision(**d) for d in job["decisions"]] for record in records for job in record["jobs"]])
    names = {identity.identity_id: identity.name for identity in inputs.people.identities}
    return [
        SplitResult(
            split=selection.split,
            images=[SwappedImage(s.image, s.face, s.values, next(made)) for s, _ in jobs[selection.split]],
            names=names,
            photos=lenders.photos,
            digital_source_type=records[0]["digital_source_type"],
            skipped=sorted(selection.skipped, key=lambda skip: (skip.reason, skip.key)),
            pairs_refused=dict(sorted(selection.pairs_refused.items())),
        )
        for selection in selections
    ]


def _write(
    results: list[SplitResult], lenders: Lenders, inputs: SwapInputs, options: SwapOptions, model: Path | None
) -> SwapReport:
    """Write everything but the pictures, and return the report."""
    output = location(options.output)
    for result in results:
        release_output.write_features(output, result)
    release_output.write_captions(output, location(options.coco), results, options.seed)
    given = {identity.identity_id: identity.attributes for identity in inputs.people.identities}
    release_output.write_names(output, results, release_output.genders_of(lenders.values, given))
    people: dict[str, dict[str, str | None]] = {
        key: {**given[key], **matched} for key, matched in lenders.values.items()
    }
    release_output.write_notes(output, results, inputs.notes, people, options.swapper)
    if lenders.face_model is not None:
        size = next(face.embedding.size for faces in lenders.photos.values() for face in faces.values())
        write_face_model(output, ReleaseFaceModel(lenders.face_model, size))
    unsplit = [skip for subset in inputs.subsets.values() for skip in subset.skipped]
    common: dict[str, Any] = {"swapper": options.swapper, "face_model": lenders.face_model, "seed": options.seed}
    common["swapper_model"] = f"{model.name}-{file_sha256(model)[:12]}" if model else None
    write_manifest(output / MANIFEST_FILE, results, unsplit, common)
    folders = {result.split: inputs.subsets[coco.SUBSETS[result.split]].folder for result in results}
    write_contact_sheet(output, results, folders, inputs.people.folder, options.seed)
    return SwapReport(
        splits={result.split: swap_report.summarise(result, options.people_per_image) for result in results},
        not_one_person=inputs.not_one_person(),
        identities_left_out=lenders.skipped,
        photos_left_out=lenders.skipped_photos,
        images_left_out=unsplit + [skip for result in results for skip in result.skipped],
        swaps_dropped=[skip for result in results for skip in swap_report.dropped_swaps(result)],
    )
