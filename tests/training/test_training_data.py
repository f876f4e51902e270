import argparse
import collections
import io
import itertools
import logging
import math
import pickle
import random
import re
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from host_abilities import host_reads_tars
from open_clip_train.data import SharedEpoch, get_wds_dataset
from PIL import Image
from training_fixtures import FACE_DIM, make_sample, parts_of, small_world, write_shards

from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import HostMismatchError, IdClipError
from open_clip_idplugin.identity_text import IdentityText, identity_key
from open_clip_idplugin.tokenizer import IdentityTokenizer
from training_patches.data import EndlessPairs, check_training_shards, collate_pairs, use_identity_pairs
from training_patches.grouping import GroupedOrder
from training_patches.pairs import Decoder, PairMaker, noisy_face
from training_patches.setups import setup_text

pytestmark = pytest.mark.host


class WordTokenizer:
    """Numbers instead of words: fast, and the text can be read back."""

    context_length = 24
    sot_token_id, eot_token_id = 900, 901

    def encode(self, text):
        return [1 + sum(map(ord, word)) % 800 for word in text.split()]

    def __call__(self, texts, context_length=None):
        rows = [[900, *self.encode(text), 901] for text in ([texts] if isinstance(texts, str) else texts)]
        return torch.tensor([row + [0] * ((context_length or 24) - len(row)) for row in rows])


class RecordingTokenizer(IdentityTokenizer):
    """Keeps the texts."""

    def __init__(self, *args):
        super().__init__(*args)
        self.texts = []

    def __call__(self, texts, *args, **kwargs):
        self.texts += texts
        return super().__call__(texts, *args, **kwargs)


def to_tensor(image):
    return torch.from_numpy(np.asarray(image.resize((8, 8))).copy()).permute(2, 0, 1).float()


def crop_at_random(image):
    return to_tensor(image) + torch.rand(1)


def pair_maker(captions="fixed", preprocess=to_tensor, **settings):
    tokenizer = RecordingTokenizer(WordTokenizer(), IdentityConfig(face_dim=FACE_DIM))
    return PairMaker(Decoder(preprocess), tokenizer, captions, **settings)


def host_args(folder, **changes):
    shards = len(list(folder.glob("*.tar")))
    settings = {
        "train_data": f"{folder}/{{00000..{shards - 1:05d}}}.tar", "dataset_resampled": False, "train_num_samples": None,
        "train_data_upsampling_factors": None, "seed": 0, "batch_size": 4, "workers": 0, "world_size": 1,
    }  # fmt: skip
    return argparse.Namespace(**{**settings, **changes})


def loader(folder, make_pair=None, epoch=0, order=None, **changes):
    args = host_args(folder, **changes)
    info = get_wds_dataset(args, None, is_train=True, epoch=epoch, tokenizer=None)
    use_identity_pairs(info, make_pair or pair_maker(), args.batch_size, order)
    return info


def content(batches):
    return [
        (images.sum((1, 2, 3)).tolist(), texts.identity_ids.tolist(), texts.tokens.tolist())
        for images, texts in map(parts_of, batches)
    ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), small_world(), shards=4)


def test_a_pair_is_the_image_and_one_caption_about_its_person():
    sample = make_sample(7, 3)
    maker = pair_maker("fixed")
    image, text = maker(sample, epoch=0, occurrence=0)
    assert image.shape == (3, 8, 8) and isinstance(text, IdentityText) and len(text) == 1
    torch.testing.assert_close(text.faces[0, 0], torch.from_numpy(sample.face))
    assert text.identity_ids.tolist() == [identity_key("n000003")] and int((text.slots > 0).sum()) == 1
    assert re.fullmatch(r"An image with \[TOK\]\. A man in scene 7, words \d\.", maker.tokenizer.texts[0])


@pytest.mark.parametrize("setting", ["fixed", "multi", "in_place"])
def test_five_occurrences_show_the_five_captions_and_draws_repeat(setting):
    sample = make_sample(7, 3)
    first, second = pair_maker(setting), pair_maker(setting)
    for occurrence in range(10):
        first(sample, epoch=1, occurrence=occurrence)
    for occurrence in reversed(range(10)):
        second(sample, epoch=1, occurrence=occurrence)
    assert first.tokenizer.texts == second.tokenizer.texts[::-1]
    numbers = [text[text.index("words") + 6] for text in first.tokenizer.texts]
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == list("01234")
    orders = []
    for epoch in range(20):
        maker = pair_maker(setting)
        maker(sample, epoch, 0)
        orders.append(maker.tokenizer.texts[0])
    assert len(set(orders)) > 3
    if setting == "in_place":
        assert any(re.match(r"A (man )?\[TOK\] (man )?in scene", text) for text in first.tokenizer.texts)


def test_face_dropout_leaves_plain_captions_without_faces():
    samples = [make_sample(image, 0) for image in range(200)]
    maker = pair_maker(face_dropout=0.25)
    _, texts = collate_pairs([maker(sample, 0, 0) for sample in samples])
    faceless = (texts.slots == 0).all(1)
    assert 30 < int(faceless.sum()) < 70
    assert not texts.faces[faceless].any() and texts.faces[~faceless].any(-1).all()
    assert ["[TOK]" in text for text in maker.tokenizer.texts] == (~faceless).tolist()


def test_face_noise_turns_a_face_by_its_length_and_repeats():
    samples = [make_sample(image, 0) for image in range(100)]
    face = torch.from_numpy(samples[0].face)
    for length in (0.5, 1.0):
        _, texts = collate_pairs([pair_maker(face_noise=length)(sample, 0, 0) for sample in samples])
        _, again = collate_pairs([pair_maker(face_noise=length)(sample, 0, 0) for sample in samples])
        assert torch.equal(texts.faces, again.faces) and len(torch.unique(texts.faces, dim=0)) == len(samples)
        torch.testing.assert_close(texts.faces.norm(dim=-1), torch.ones(100, 1))
        cosine = torch.cosine_similarity(texts.faces[:, 0], face, dim=-1).mean().item()
        assert cosine == pytest.approx(1 / math.sqrt(1 + length**2), abs=0.1)
    nobody = np.zeros(4, np.float32)
    assert noisy_face(nobody, 1.0, random.Random(0)) is nobody


def test_a_batch_is_what_the_host_s_loop_unpacks(shards):
    info = loader(shards)
    ours = next(iter(info.dataloader))
    if host_reads_tars():
        host = get_wds_dataset(host_args(shards), to_tensor, is_train=True, tokenizer=WordTokenizer()).dataloader
        theirs = next(iter(host))
        assert type(ours) is type(theirs)
        assert not isinstance(ours, dict) or ours.keys() == theirs.keys()
    if isinstance(ours, dict):  # of tasks, which move plain tensors and dictionaries to a device
        assert isinstance(ours["text"]["faces"], torch.Tensor)
    assert (info.dataloader.num_batches, info.dataloader.num_samples) == (6, 24)
    batches = list(info.dataloader)
    assert len(batches) == 6
    images, texts = parts_of(batches[0])
    assert images.shape == (4, 3, 8, 8) and texts.shape == (4, 24) and texts.faces.shape == (4, 1, FACE_DIM)
    # Image and text of a row belong together: the scene is in the caption, and both are in the key.
    pairs = [pair_maker()(sample, 0, 0) for sample in small_world()]
    rows = [(image.sum().item(), int(text.identity_ids)) for image, text in pairs]
    seen = [
        (i.sum().item(), int(t)) for images, texts in map(parts_of, batches) for i, t in zip(images, texts.identity_ids)
    ]
    assert collections.Counter(seen) == collections.Counter(rows)  # one pass: every sample once


def test_an_epoch_of_five_passes_is_the_paper_s_and_drops_nothing(shards):
    maker = pair_maker()
    list(loader(shards, maker, train_num_samples=120, batch_size=7).dataloader)
    counts = collections.Counter(text for text in maker.tokenizer.texts[: 24 * 5])
    assert set(counts.values()) == {4}  # 6 scenes x 5 captions, each for its 4 people
    assert len(counts) == 30


def test_few_samples_fill_a_large_batch(tmp_path):
    folder = write_shards(tmp_path, small_world(people=1, scenes=3), shards=1)
    batches = list(loader(folder, batch_size=8, train_num_samples=16).dataloader)
    assert [len(texts) for _, texts in map(parts_of, batches)] == [8, 8]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("resampled", [False, True])
def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(shards, resampled, grouped):
    settings = {"workers": 2, "batch_size": 3, "train_num_samples": 36, "dataset_resampled": resampled}
    settings["order"] = GroupedOrder("scene", 0.7, 2, 8, 3) if grouped else None
    maker = pair_maker("multi", preprocess=crop_at_random)

    def epochs(first, last):
        torch.manual_seed(0)  # as the host does before it builds its loaders
        info = loader(shards, maker, first, **settings)
        for epoch in range(first, last):
            info.set_epoch(epoch)
            yield content(info.dataloader)

    unbroken = list(epochs(0, 3))
    assert list(epochs(0, 1)) == unbroken[:1]
    assert list(epochs(1, 3)) == unbroken[1:]
    assert unbroken[0] != unbroken[1]
    if not resampled:  # workers share the shards and no sample comes twice in a pass
        pictures = [tuple(row) for batch in unbroken[0][:8] for row in zip(batch[1], map(tuple, batch[2]))]
        assert len(set(pictures)) == len(pictures)


def test_samples_that_cannot_be_used_are_skipped_and_counted(tmp_path, caplog):
    samples = small_world(people=2, scenes=3)
    damage = {
        samples[0].key: {"jpg": b"no picture"},
        samples[1].key: {"face.npy": make_sample(0, 0, face_dim=7).face.tobytes()},
        samples[2].key: {"json": b"{"},
    }
    folder = write_shards(tmp_path, samples, shards=1, damage=damage)
    with caplog.at_level(logging.WARNING):
        batches = list(loader(folder, batch_size=3).dataloader)
    warnings = [record.getMessage() for record in caplog.records if "Skipping" in record.getMessage()]
    assert {len(texts) for _, texts in map(parts_of, batches)} == {3}
    assert all(any(sample.key in line for line in warnings) for sample in samples[:3])
    assert "3 skipped by this worker" in "".join(warnings)


def test_a_worker_without_any_usable_sample_says_so(tmp_path):
    samples = [make_sample(1, 1, face_dim=FACE_DIM + 1)]
    folder = write_shards(tmp_path, samples, shards=1)
    with pytest.raises(IdClipError, match=r"no usable sample.*1 skipped.*17"):
        next(iter(loader(folder).dataloader))
    with pytest.raises(IdClipError, match=r"no usable sample.*1000 skipped"):
        next(iter(loader(folder, dataset_resampled=True).dataloader))


def test_every_stage_can_be_sent_to_a_spawned_worker(shards):
    info = loader(shards)
    pairs = info.dataloader.pipeline[0].dataset.pipeline[0]
    pairs.reader.pipeline = [stage for stage in pairs.reader.pipeline if not hasattr(stage, "epoch")]
    pairs.shared_epoch = FixedEpoch()  # shared memory is handed over by multiprocessing itself
    copy = pickle.loads(pickle.dumps(info.dataloader.pipeline[0].dataset))
    assert content(itertools.islice(copy, 2)) == content(itertools.islice(info.dataloader.pipeline[0].dataset, 2))


class FixedEpoch:
    def get_value(self):
        return 0


def test_another_pipeline_of_the_host_is_refused(shards):
    info = get_wds_dataset(host_args(shards), None, is_train=True, tokenizer=None)
    del info.dataloader.pipeline[0].dataset.pipeline[-2]
    with pytest.raises(HostMismatchError, match="it was to end in"):
        use_identity_pairs(info, pair_maker(), 4)


def test_shards_that_cannot_train_are_refused_with_a_hint(tmp_path, shards):
    check_training_shards(host_args(shards, workers=2, world_size=2), FACE_DIM)
    with pytest.raises(IdClipError, match=r"4 training shards cannot feed 3 workers on each of 2.*--workers 2"):
        check_training_shards(host_args(shards, workers=3, world_size=2), FACE_DIM)
    with pytest.raises(IdClipError, match=r"at least 8 shards, or pass --dataset-resampled"):
        check_training_shards(host_args(shards, workers=1, world_size=8), FACE_DIM)
    check_training_shards(host_args(shards, workers=9, dataset_resampled=True), FACE_DIM)
    with pytest.raises(IdClipError, match="have 16 numbers and the model takes 512"):
        check_training_shards(host_args(shards), 512)
    with pytest.raises(IdClipError, match="there is no shard"):
        check_training_shards(host_args(shards, train_data=str(shards / "00099.tar")), FACE_DIM)
    (tmp_path / "text.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(IdClipError, match=r"text\.tar"):
        check_training_shards(host_args(tmp_path, train_data=str(tmp_path / "text.tar")), FACE_DIM)


def test_plain_shards_of_image_and_text_are_refused(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as writer:
        writer.write({"__key__": "12_n000001", "jpg": stream.getvalue(), "txt": "a picture"})
    with pytest.raises(IdClipError, match=r"lacks .*face\.npy.*idclip shards"):
        check_training_shards(host_args(tmp_path), FACE_DIM)
    with tarfile.open(tmp_path / "00000.tar", "w"):
        pass
    with pytest.raises(IdClipError, match="empty"):
        check_training_shards(host_args(tmp_path), FACE_DIM)


def test_an_endless_stream_restarts_with_each_epoch(shards):
    epoch = SharedEpoch(0)
    reader = [webdataset.SimpleShardList(str(shards / "00000.tar")), webdataset.tarfile_to_samples()]
    pairs = EndlessPairs(reader, pair_maker(), epoch)
    first = [text.tokens.tolist() for _, text in itertools.islice(pairs, 12)]
    assert first == [text.tokens.tolist() for _, text in itertools.islice(pairs, 12)]
    epoch.set_value(1)
    assert first != [text.tokens.tolist() for _, text in itertools.islice(pairs, 12)]


SETUPS = ("with_entities", "only_entities", "coco_original")


def test_a_pair_has_a_text_for_each_setup():
    sample = make_sample(7, 3)
    maker = pair_maker("fixed", setups=SETUPS, labelled=True)
    _, texts = maker(sample, epoch=0, occurrence=0)
    with_entities, only_entities, original = maker.tokenizer.texts
    assert re.fullmatch(r"A man in scene 7, words \d\.", original)
    assert with_entities == f"An image with [TOK]. {original}" and only_entities == "An image with [TOK]."
    assert texts.slots.bool().any(1).tolist() == [True, True, False]
    assert texts.faces.any(-1).any(-1).tolist() == [True, True, False]
    person = identity_key("n000003")
    assert texts.labels["image_shows"].tolist() == [[person, 7]] * 3
    assert texts.labels["text_about"].tolist() == [[person, 7], [person, -1], [-1, 7]]
    plain = pair_maker("fixed")(sample, 0, 0)[1]
    assert not plain.labels and texts[0].tokens.tolist() == plain.tokens.tolist()


def test_an_entity_prompt_is_drawn_as_the_caption_setting_says():
    prompts = {setup_text("only_entities", "A man.", "multi", random.Random(seed), 0.0) for seed in range(60)}
    assert len(prompts) == 6 and all("[TOK]" in prompt and "man" not in prompt for prompt in prompts)
    assert setup_text("only_entities", "A man.", "in_place", random.Random(0), 1.0) in prompts
    assert setup_text("coco_original", "A man.", "in_place", random.Random(0), 0.0) == "A man."


def test_a_dropped_face_leaves_a_text_that_tells_the_scene_only():
    _, texts = pair_maker(face_dropout=1.0, labelled=True)(make_sample(7, 3), 0, 0)
    assert texts.labels["text_about"].tolist() == [[-1, 7]]


def test_the_texts_of_an_image_stay_together_in_a_batch(shards):
    info = loader(shards, pair_maker(setups=SETUPS[:2], labelled=True))
    images, texts = parts_of(next(iter(info.dataloader)))
    assert len(images) == 4 and len(texts) == 8 == len(texts.labels["text_about"])
    assert texts.identity_ids[::2].tolist() == texts.identity_ids[1::2].tolist()
    assert (texts.labels["text_about"][1::2, 1] == -1).all()


def keys(count_of_scenes, people):
    return [{"__key__": f"{scene}_n{person:03d}"} for person in range(people) for scene in range(count_of_scenes)]


def arranged(order, samples, seed=0, lose=()):
    """What comes of the order, as batches of the samples that can be used."""
    good = []
    for members in order(iter(samples), random.Random(seed), lambda: len(good)):
        if members["__key__"] not in lose:
            good.append(members["__key__"])
    return [good[start : start + order.batch_size] for start in range(0, len(good), order.batch_size)]


def in_groups(batch, by):
    part = {"scene": 0, "identity": 1}[by]
    counts = collections.Counter(key.split("_")[part] for key in batch)
    return sum(count for count in counts.values() if count > 1)


@pytest.mark.parametrize("by", ["scene", "identity"])
def test_half_of_a_batch_comes_in_groups(by):
    samples = keys(60, 40)
    random.Random(1).shuffle(samples)
    order = GroupedOrder(by, 0.5, 4, buffer=1000, batch_size=16)
    batches = arranged(order, samples)
    assert collections.Counter(key for batch in batches for key in batch) == collections.Counter(
        members["__key__"] for members in samples
    )  # every sample once
    assert all(len(batch) == 16 for batch in batches)
    assert sum(in_groups(batch[:8], by) >= 7 for batch in batches) > 0.8 * len(batches)  # groups come first
    assert sum(in_groups(batch[10:], by) <= 2 for batch in batches) > 0.8 * len(batches)
    assert all(len(set(batch)) == 16 for batch in batches)


def test_a_share_of_one_makes_batches_of_whole_groups():
    order = GroupedOrder("scene", 1.0, 5, buffer=500, batch_size=10)
    assert all(in_groups(batch, "scene") == 10 for batch in arranged(order, keys(40, 5)))


def test_a_damaged_sample_does_not_break_the_groups_that_follow():
    order = GroupedOrder("scene", 1.0, 5, buffer=500, batch_size=10)
    batches = arranged(order, keys(40, 5), lose={"3_n001", "17_n004"})
    assert sum(in_groups(batch, "scene") == len(batch) for batch in batches) >= len(batches) - 2


def test_groups_depend_on_the_given_random_numbers_only():
    order = GroupedOrder("identity", 0.5, 3, buffer=100, batch_size=8)
    assert arranged(order, keys(20, 20)) == arranged(order, keys(20, 20))
    assert arranged(order, keys(20, 20)) != arranged(order, keys(20, 20), seed=1)


def test_the_same_picture_is_in_a_group_once():
    order = GroupedOrder("scene", 1.0, 4, buffer=100, batch_size=4)
    groups, singles = order.split(keys(2, 2) * 2, random.Random(0))
    assert sorted(map(len, groups)) == [2, 2] and len(singles) == 4


def test_a_buffer_without_neighbours_is_told(caplog):
    order = GroupedOrder("scene", 0.5, 4, buffer=100, batch_size=8)
    with caplog.at_level(logging.WARNING):
        batches = arranged(order, keys(100, 1))
    assert "Only 0 of 100 samples" in caplog.text and sum(map(len, batches)) == 100


def test_the_command_s_loader_groups_by_scene(shards):
    order = GroupedOrder("scene", 1.0, 4, buffer=100, batch_size=4)
    info = loader(shards, pair_maker(labelled=True), order=order, workers=0)
    scenes = [texts.labels["image_shows"][:, 1].tolist() for _, texts in map(parts_of, info.dataloader)]
    assert all(len(set(batch)) == 1 for batch in scenes)
