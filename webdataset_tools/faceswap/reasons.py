"""Why a picture, a photo, an identity or a swap is not in the release: the words of the report and the manifest.

They extend those of `webdataset_tools.shard_report`, which stand for the same things in both reports.
"""

from webdataset_tools.shard_report import MISSING_CAPTIONS as MISSING_CAPTIONS
from webdataset_tools.shard_report import MISSING_IMAGE as MISSING_IMAGE
from webdataset_tools.shard_report import UNREADABLE_IMAGE as UNREADABLE_IMAGE

# COCO images that do not show exactly one person: counted, not listed, since they are most of COCO.
NO_PERSON = "no person annotated"
SEVERAL_PEOPLE = "several people annotated"
CROWD = "a crowd annotated"
NOT_ONE_PERSON = (NO_PERSON, SEVERAL_PEOPLE, CROWD)

# COCO images.
DUPLICATE_ID = "duplicate id"
BAD_ENTRY = "broken annotation entry"
BAD_FILE_NAME = "file name with a folder"
BAD_CHARACTERS = "file name that is not UTF-8"
EXACT_COPY = "exact copy of another photo"
REJECTED_PICTURE = "picture cannot be used"
OTHER_SIZE = "picture has another size than annotated"
NO_FACE = "no face found"
SEVERAL_FACES = "several faces found"
FACE_OUTSIDE = "face outside of the person"
SMALL_FACE = "face too small"
TURNED_AWAY = "face turned away"
COVERED = "something over the face"
COVERED_BY_OBJECT = "an annotated object over the face"
HAND_AT_FACE = "a hand at the face"
NOT_THE_PERSON = "face outside of the person's outline"
BLURRED = "face blurred"
PATCHY = "patches of light on the face"
BAD_LANDMARKS = "face cannot be aligned"
ENGINE_FAILED = "face engine failed on the picture"
UNKNOWN_ATTRIBUTE = "unknown attribute to match"
NO_MATCH = "no identity matches"

# Identities.
BAD_IDENTITY_ID = "identity id not usable in file names"
NO_PHOTOS = "identity without photos"
UNREADABLE_FOLDER = "unreadable folder"
NO_USABLE_PHOTO = "identity without a usable photo"

# Pairs of a face and a person's photos: counted, and listed where nobody is left.
GREY_AND_COLOUR = "grey and colour"
OTHER_POSE = "heads turned differently"
OTHER_LIGHT = "light from different sides"
OTHER_SKIN = "skins of different colour"

# Swaps.
SWAP_FAILED = "swap failed"
NOT_RECOGNISED = "not recognised as the identity"
