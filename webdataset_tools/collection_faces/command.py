"""The verb `idclip faces`: a picture collection -> a face table."""

from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.pictures.collection import PICTURES_PER_PART
from webdataset_tools.collection_faces.build import FacesOptions, build_face_table
from webdataset_tools.collection_faces.face_sheet import SHEET_FILE, write_sheet
from webdataset_tools.worker_pool import PROCESSES


def faces(
    input: str,
    output: str,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    min_face: int = 0,
    min_score: float = 0.0,
    providers: str | None = None,
    threads: int = 1,
    pictures_per_part: int = PICTURES_PER_PART,
    workers: int = 2,
    distributor: str = PROCESSES,
    sheet: bool = False,
) -> None:
    """Find and embed all faces of a picture collection; run it again to go on after an interruption.

    Args:
        input: folder of pictures (with its subfolders), glob such as 'photos/*/*.jpg', or tar shards (a tar, a folder of tars,
            'shards/{00000..00007}.tar'); paths or URLs.
        output: folder for faces.parquet, embeddings.npy, metadata.json and report.json; a path or a URL.
        faces: face engine, such as insightface:buffalo_l, opencv:FOLDER or opencv:FOLDER+timm:NAME@CHECKPOINT.
        det_size: side of the square in which the face detector sees a picture; None takes the face engine's own.
        min_face: smallest face, in pixels of its shorter side.
        min_score: least score of the detector for a face to count; detectors leave out the least certain anyway.
        providers: onnxruntime's execution providers, with commas; None takes CUDA where it is available.
        threads: of one worker's models.
        pictures_per_part: pictures that a worker takes at a time, and a killed run loses at most; a shard is one part.
        workers: processes.
        distributor: processes (on this machine) or pyspark.
        sheet: also write sheet.jpg with up to 96 of the faces.
    """
    options = FacesOptions(**locals())
    report = build_face_table(options)
    print("\n".join(report.lines()))
    print(f"wrote {output}: faces.parquet, embeddings.npy, metadata.json and report.json")
    if options.sheet and write_sheet(options):
        print(f"wrote {output}/{SHEET_FILE}: faces; keep it as private as the pictures")
    print(
        f"next: {command('index', images=input, model='MODEL', face_table=output, output='INDEX')}\n"
        f"  or: open_clip_idplugin.faces.face_table.load_face_table({output!r}) opens it in Python"
    )
