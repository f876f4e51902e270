"""What to look at and how: the flags of `idclip faces`."""

from dataclasses import dataclass

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures.collection import PICTURES_PER_PART as PICTURES_PER_PART
from open_clip_idplugin.storage.locations import Location, Place, is_local, location
from webdataset_tools.worker_pool import PROCESSES, check_distributor, check_reachable


@dataclass(frozen=True)
class FacesOptions:
    """See `command.faces`; raises IdClipError when a value is not allowed."""

    input: str
    output: Place
    faces: str = "insightface:buffalo_l"
    det_size: int | None = None
    min_face: int = 0
    min_score: float = 0.0
    providers: str | None = None
    threads: int = 1
    pictures_per_part: int = PICTURES_PER_PART
    workers: int = 2
    distributor: str = PROCESSES
    sheet: bool = False

    def __post_init__(self) -> None:
        for name, least in (("min_face", 0), ("threads", 1), ("pictures_per_part", 1), ("workers", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise IdClipError(f"--{name} must be a whole number from {least} on, not {value!r}")
        if not isinstance(self.min_score, (int, float)) or not 0 <= self.min_score <= 1:
            raise IdClipError(f"--min_score must be a number from 0 to 1, not {self.min_score!r}")
        if self.sheet and not is_local(self.folder):
            raise IdClipError("--sheet reads the written table and needs a local --output")
        check_distributor(self.distributor)
        check_reachable(self.folder, self.workers, self.distributor)

    @property
    def folder(self) -> Location:
        """The output folder, independent of the working directory of workers."""
        place = location(self.output)
        return place.absolute() if is_local(place) else place

    @property
    def provider_names(self) -> tuple[str, ...] | None:
        """onnxruntime's execution providers, None for the best there is."""
        if self.providers is None:
            return None
        return tuple(name.strip() for name in self.providers.split(",") if name.strip())
