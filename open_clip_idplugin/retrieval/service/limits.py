"""Request limits: options -> `Limits`; a request -> the same with its pictures fetched and looked at, or BadRequest.

Pictures are checked before they are decoded, and decoded under a deadline.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures import DecoderMissing, ImageRejected, PictureTooLarge
from open_clip_idplugin.pictures.bounded_decoding import check_picture
from open_clip_idplugin.retrieval.ranking.knn_request import LONGEST_TEXT, MOST_RESULTS, BadRequest, KnnRequest

if TYPE_CHECKING:
    pass

_DEFAULT_RESULTS = KnnRequest.model_fields["num_images"].default
_TAKE_PICTURES = ("/knn-service", "/people/in-photo", "/people/enroll", "/predict")
_LISTS = {"/metadata": 2 << 20}  # MOST_RESULTS ids, and their commas
_USUAL_BYTES = 64 << 10  # of any other request: names, notes, a token


@dataclass(frozen=True)
class Limits:
    """Bounds of a request; raises IdClipError where one is out of range."""

    request_bytes: int = 32 << 20
    picture_pixels: int = 50_000_000
    results: int = 10_000
    text_length: int = LONGEST_TEXT  # characters

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise IdClipError(f"the limit {name} must be at least 1, not {value}")
        if self.results < _DEFAULT_RESULTS:
            raise IdClipError(f"the limit results must be at least {_DEFAULT_RESULTS}, which requests get by default")
        if self.results > MOST_RESULTS or self.text_length > LONGEST_TEXT:
            raise IdClipError(f"at most {MOST_RESULTS} results and {LONGEST_TEXT} characters can be allowed")

    def admit(self, request: KnnRequest, fetch: Callable[[str], bytes] | None = None) -> KnnRequest:
        """The request, its picture fetched where it has but an address; pictures are looked at, not decoded.

        fetch: address -> bytes of a picture; None: addresses are refused.

        Raises:
            BadRequest: it asks for too much, or a picture cannot be had.
        """
        if max(request.num_images, request.num_result_ids) > self.results:
            raise BadRequest(f"'num_images' and 'num_result_ids' may be at most {self.results} here")
        if request.text is not None and len(request.text) > self.text_length:
            raise BadRequest(f"'text' has {len(request.text)} characters, at most {self.text_length} are taken here")
        pictures = {f"photo {number}": photo for number, photo in enumerate(request.photos, 1)}
        if request.image is not None:
            pictures["'image'"] = request.image
        elif request.image_url is not None and request.text is None:
            if fetch is None:
                raise BadRequest("this service fetches no addresses: send the picture itself in 'image', as base64")
            content = pictures["what lies behind 'image_url'"] = fetch(request.image_url)
            request = request.model_copy(update={"image": content, "image_url": None})
        for what, picture in pictures.items():
            self.check_picture(picture, what)
        return request

    def bytes_of(self, path: str) -> int:
        """The largest body of a request to an address: as much as it can need."""
        most = self.request_bytes if path in _TAKE_PICTURES else _LISTS.get(path, _USUAL_BYTES)
        return min(most, self.request_bytes)

    def check_picture(self, content: bytes, what: str) -> None:
        """Refuse what is no picture, or one that would take too much memory once it is decoded."""
        try:
            check_picture(content, self.picture_pixels)
        except PictureTooLarge as error:
            raise BadRequest(f"{what} is too large: {error.reason}") from None
        except DecoderMissing as error:
            raise BadRequest(f"{what} cannot be read by this service: {error.reason}") from None
        except ImageRejected:
            raise BadRequest(
                f"{what} is not a picture that can be read: send the bytes of a JPEG or PNG in base64"
            ) from None
