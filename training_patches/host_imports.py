"""What the modules of this package import from the hosts by name: check-only rows, to be verified before those modules load.

Role: an open_clip or webdataset that has moved on is refused in a sentence where `import` would end in a traceback. This
module itself imports no host.
"""

from open_clip_idplugin.hosts.patches import PatchRow

_CHECKED = "open_clip 2.32 and 3.3, webdataset 0.2"
_READ_DIRECTLY = "check only: imported by name, without a change"

PARAMS = PatchRow(
    targets=("open_clip_train.params:parse_args",), reason=_READ_DIRECTLY, hosts=_CHECKED, parameters=("args",)
)

IMPORTED: tuple[PatchRow, ...] = tuple(
    PatchRow(targets=(target,), reason=_READ_DIRECTLY, hosts=_CHECKED)
    for target in (
        "open_clip:get_input_dtype",
        "open_clip_train.data:DataInfo",
        "open_clip_train.data:SharedEpoch",
        "open_clip_train.data:_SAMPLE_SHUFFLE_INITIAL",
        "open_clip_train.data:_SAMPLE_SHUFFLE_SIZE",
        "open_clip_train.data:get_dataset_fn",
        "open_clip_train.data:get_wds_dataset",
        "open_clip_train.distributed:is_master",
        "open_clip_train.main:main",
        "open_clip_train.precision:get_autocast",
        "open_clip_train.train:unwrap_model",
        "webdataset.filters:_shuffle",
    )
)
