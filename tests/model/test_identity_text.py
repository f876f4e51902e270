"""The batch container: what open_clip's loop, DataLoaders and collation ask of it."""

import pickle

import pytest
import torch

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.identity_text import IdentityText, identity_key


def batch(rows: int, length: int = 6, faces: int = 1, start: int = 0) -> IdentityText:
    """Rows of distinct numbers; every row has its placeholder at position 1."""
    tokens = torch.arange(start, start + rows * length).reshape(rows, length)
    slots = torch.zeros(rows, length, dtype=torch.int64)
    slots[:, 1] = 1
    return IdentityText(tokens, torch.full((rows, faces, 4), float(start)), slots, torch.arange(start, start + rows))


def same(one: IdentityText, other: IdentityText) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "faces", "slots", "identity_ids")
    )


def test_shape_length_and_device():
    text = batch(3)
    assert len(text) == 3 and text.shape == (3, 6) and text.device.type == "cpu"
    assert "tokens [3, 6]" in repr(text)


def test_to_moves_all_and_keeps_dtypes():
    moved = batch(2).to(device="meta", non_blocking=True)
    assert {t.device.type for t in (moved.tokens, moved.faces, moved.slots, moved.identity_ids)} == {"meta"}
    kept = batch(2).to("cpu", dtype=torch.bfloat16)
    assert kept.tokens.dtype == torch.int64 and kept.faces.dtype == torch.float32
    assert same(batch(2).to(torch.float16), batch(2))


def test_pin_memory_pins_all(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    assert same(batch(2).pin_memory(), batch(2))
    assert len(pinned) == 4


def test_indexing_gives_batches():
    text = batch(4)
    assert same(text[1], text[1:2]) and len(text[-1]) == 1
    assert same(text[torch.tensor([2, 0])], text[[2, 0]])
    assert text[[2, 0]].identity_ids.tolist() == [2, 0]
    assert same(text[torch.tensor([True, False, False, True])], text[[0, 3]])
    with pytest.raises(IndexError):
        text[4]


def test_iterating_ends():
    assert [row.identity_ids.item() for row in batch(3)] == [0, 1, 2]


def test_collate_pads_tokens_and_faces():
    joined = IdentityText.collate([batch(2, length=4, faces=2), batch(1, length=6, faces=1, start=50)])
    assert joined.shape == (3, 6) and joined.faces.shape == (3, 2, 4)
    assert joined.tokens[0].tolist() == [0, 1, 2, 3, 0, 0] and joined.faces[2, 1].eq(0).all()
    assert joined.slots[:, 1].tolist() == [1, 1, 1] and joined.identity_ids.tolist() == [0, 1, 50]


def test_collate_refuses_what_does_not_belong_together():
    other = IdentityText(torch.ones(1, 2).long(), torch.ones(1, 1, 5), torch.zeros(1, 2).long(), torch.zeros(1).long())
    with pytest.raises(IdClipError, match=r"different sizes \(\[4, 5\]\)"):
        IdentityText.collate([batch(1), other])
    with pytest.raises(IdClipError, match="at least one"):
        IdentityText.collate([])
    twice = IdentityText(other.tokens, other.faces, other.slots, other.identity_ids, tokens_per_identity=2)
    with pytest.raises(IdClipError, match="tokens_per_identity"):
        IdentityText.collate([other, twice])


def test_cut_keeps_placeholders():
    text = batch(2)
    assert text.cut(2).shape == (2, 2) and text.cut(2).slots[:, 1].tolist() == [1, 1]
    with pytest.raises(IdClipError, match="would lose"):
        text.cut(1)


def test_wrong_shapes_are_refused_with_what_was_seen():
    text = batch(2)
    with pytest.raises(IdClipError, match=r"tokens \[2, 6\], faces \[1, 1, 4\]"):
        IdentityText(text.tokens, text.faces[:1], text.slots, text.identity_ids)


def test_survives_pickling():
    assert same(pickle.loads(pickle.dumps(batch(2))), batch(2))


class _Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return batch(1, start=10 * index)


def test_travels_through_dataloader_workers():
    loader = torch.utils.data.DataLoader(_Texts(), batch_size=2, num_workers=1, collate_fn=IdentityText.collate)
    assert [text.identity_ids.tolist() for text in loader] == [[0, 10], [20, 30]]


def test_identity_key_is_stable_and_fits_int64():
    assert identity_key("n000129") == 3555971147443933714  # stored in nothing yet, but the same in every process
    assert identity_key("n000129") != identity_key("n000130")
    assert torch.tensor([identity_key(str(n)) for n in range(100)], dtype=torch.int64).min() >= 0
