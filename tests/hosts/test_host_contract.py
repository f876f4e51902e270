"""The patch table: it fits the installed hosts, refuses others in a sentence, and can be undone."""

import sys
import types

import pytest

from open_clip_idplugin.errors import HostMismatchError
from open_clip_idplugin.hosts import patches as host_patches
from open_clip_idplugin.hosts.open_clip_rows import OPEN_CLIP
from open_clip_idplugin.hosts.patches import PatchRow, apply, is_applied, restore, verify

pytestmark = pytest.mark.host


@pytest.fixture
def host(monkeypatch):
    """A host package of two modules, the second of which imported a function by name."""
    first, second = types.ModuleType("fakehost"), types.ModuleType("fakehost.user")

    def load(path, strict=True):
        return ("loaded", path, strict)

    first.load, second.load, first.__version__ = load, load, "1.2"
    monkeypatch.setitem(sys.modules, "fakehost", first)
    monkeypatch.setitem(sys.modules, "fakehost.user", second)
    return first, second


def row(**settings) -> PatchRow:
    defaults = {
        "targets": ("fakehost:load", "fakehost.user:load"),
        "replacement": lambda original: lambda path, strict=True: ("patched", *original(path, strict)),
        "reason": "test",
        "hosts": "fakehost 1.2",
    }
    return PatchRow(**(defaults | settings))


def test_every_row_fits_the_installed_open_clip(tiny_identity_models):
    verify(OPEN_CLIP)
    assert all(is_applied(row) for row in OPEN_CLIP if row.replacement)
    for entry in OPEN_CLIP:
        assert entry.reason and entry.hosts
        if entry.replacement is None:
            assert entry.reason.startswith("check only")


def test_apply_puts_one_replacement_everywhere_and_restore_undoes_it(host):
    first, second = host
    original = first.load
    apply([row()])
    assert first.load("x") == ("patched", "loaded", "x", True) and second.load is first.load
    apply([row()])
    assert first.load("x") == ("patched", "loaded", "x", True)  # not wrapped twice
    restore([row()])
    assert first.load is original and second.load is original
    restore([row()])


def test_a_module_that_comes_later_gets_the_same_replacement(host):
    first, second = host
    one, other = row(targets=("fakehost:load",)), row(targets=("fakehost:load", "fakehost.user:load"))
    apply([one])
    assert second.load is not first.load
    apply([other])
    assert second.load is first.load
    restore([other])
    assert second.load("x")[0] == "loaded"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"targets": ("fakehost:gone",)}, "needs fakehost:gone, which the installed fakehost 1.2 does not have"),
        ({"targets": ("fakehost:load.deeper.still",)}, "does not have"),
        ({"targets": ("nosuchhost.module:load",)}, "nosuchhost is not installed"),
        ({"parameters": ("path", "device")}, "no longer takes device .*checked with fakehost 1.2"),
        ({"marker": "torch.load"}, "no longer works as the plugin expects"),
    ],
)
def test_a_host_that_has_moved_on_is_refused_and_left_as_it_was(host, settings, sentence):
    first, second = host
    original = first.load
    with pytest.raises(HostMismatchError, match=sentence):
        apply([row(), row(**settings)])
    assert first.load is original and second.load is original


def test_a_replacement_that_fails_takes_the_others_back(host):
    first, second = host
    original, first.save = first.load, "not what the row expects"

    def fail(saved):
        return saved.no_such_attribute

    with pytest.raises(AttributeError, match="no_such_attribute"):
        apply([row(), row(targets=("fakehost:save",), replacement=fail)])
    assert first.load is original and second.load is original and not is_applied(row())
    apply([row()])
    assert first.load("x") == ("patched", "loaded", "x", True)
    restore([row()])


def test_a_module_that_imported_the_replacement_gets_the_hosts_own_back(host):
    first, second = host
    original = first.load
    apply([row(targets=("fakehost:load",))])
    second.load = first.load  # `from fakehost import load`, run now
    verify([row(targets=("fakehost.user:load",), marker='"loaded"')])  # of the host's own source
    apply([row()])
    assert second.load is first.load and second.load("x") == ("patched", "loaded", "x", True)
    restore([row()])
    assert second.load is original and first.load is original


def test_another_table_gets_the_hosts_own_and_puts_back_what_it_found(host):
    """As training does with functions that open_clip's main imported by name after the registration."""
    first, second = host
    apply([row(targets=("fakehost:load",))])
    second.load = ours = first.load
    training = row(targets=("fakehost.user:load",), replacement=lambda original: lambda path: ("run", *original(path)))
    apply([training])
    assert second.load("x") == ("run", "loaded", "x", True)
    restore([training])
    assert second.load is ours
    restore([row(targets=("fakehost:load",))])


def test_all_that_does_not_fit_is_told_at_once(host):
    rows = [row(targets=("fakehost:gone",)), row(), row(parameters=("device",), targets=("fakehost:load",))]
    said = [str(error) for error in host_patches.mismatches(rows)]
    assert len(said) == 2 and "fakehost:gone" in said[0] and "no longer takes device" in said[1]


def test_checks_that_hold(host):
    verify([row(parameters=("path", "strict"), marker='"loaded"', replacement=None)])
    apply([row(replacement=None)])
    assert not host_patches.is_applied(row())


def test_undoing_over_somebody_elses_change_is_refused(host):
    first, _ = host
    apply([row()])
    ours = first.load
    first.load = lambda path: "theirs"
    with pytest.raises(HostMismatchError, match="changed by something else"):
        restore([row()])
    first.load = ours
    restore([row()])


def test_training_loop_carries_the_container_unpatched(tiny_identity_models, faces):
    """open_clip_train's own train_one_epoch, with gradient accumulation, on batches with and without faces."""
    import open_clip
    import torch
    from open_clip.loss import ClipLoss

    if hasattr(open_clip, "create_task"):  # whose newer loop tests/training covers
        from open_clip_train.legacy_train import train_one_epoch
    else:
        from open_clip_train.train import train_one_epoch

    model = open_clip.create_model("IdCLIP-ViT-tiny", output_dict=True, identity_cfg={"visual_prompts": 2})
    model.lock_image_tower()
    model.lock_text_tower()
    tokenizer = open_clip.get_tokenizer("IdCLIP-ViT-tiny")
    images = torch.randn(3, 3, 32, 32)
    batches = [
        (images, tokenizer(["[TOK] runs", "[TOK] rides a horse", "a [TOK]"], faces=faces)),
        (images, tokenizer(["[TOK] runs", "a dog", "a cat"], faces=[faces[0], None, None])),
    ]

    if hasattr(open_clip, "create_task"):
        batches = [dict(zip(("image", "text"), batch)) for batch in batches]

    class Loader(list):
        num_batches, num_samples = 2, 6

    data = {"train": types.SimpleNamespace(set_epoch=lambda epoch: None, dataloader=Loader(batches))}
    settings = {
        "device": "cpu", "precision": "fp32", "distill": False, "accum_freq": 2, "skip_scheduler": True,
        "grad_clip_norm": None, "horovod": False, "log_every_n_steps": 1, "rank": 0, "local_rank": 0, "world_size": 1,
        "batch_size": 3, "wandb": False, "distributed": False, "log_local": False,
    }  # fmt: skip
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert {name.split(".")[1] for name in trainable if "." in name} == {"adaptor", "prompts"}
    before = {name: value.detach().clone() for name, value in trainable.items()}
    optimizer = torch.optim.AdamW(list(trainable.values()), lr=1e-2)
    train_one_epoch(model, data, ClipLoss(), 0, optimizer, None, None, None, types.SimpleNamespace(**settings))
    assert all(not torch.equal(before[name], value) for name, value in trainable.items())
