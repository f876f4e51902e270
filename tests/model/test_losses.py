"""Losses against sums written out by hand, and against open_clip's own where both mean the same."""

import argparse
import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.losses import ANYTHING, MatchingClipLoss, MatchingSigLipLoss, SetupsLoss, Term, matches
from training_patches.loss_terms import identity_loss
from training_patches.params import IdentityOptions

pytestmark = pytest.mark.host

# Three images: two people in scene 7, and the first of them in scene 8.
SHOWS = torch.tensor([[1, 7], [2, 7], [1, 8]])
ABOUT = {
    "with_entities": SHOWS,
    "only_entities": torch.tensor([[1, ANYTHING], [2, ANYTHING], [1, ANYTHING]]),
    "coco_original": torch.tensor([[ANYTHING, 7], [ANYTHING, 7], [ANYTHING, 8]]),
}
MATCHES = {
    "with_entities": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "only_entities": [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
    "coco_original": [[1, 1, 0], [1, 1, 0], [0, 0, 1]],
}
SCALE = torch.tensor(5.0)


def features(rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float64), dim=-1)


def host_args(**changes):
    settings = {
        "distill": False, "horovod": False, "model": "x", "siglip": False, "local_loss": False, "gather_with_grad": False,
        "rank": 0, "world_size": 1, "loss_dist_impl": None,
    }  # fmt: skip
    return argparse.Namespace(**{**settings, **changes})


@pytest.mark.parametrize("setup", list(ABOUT))
def test_a_text_matches_the_images_of_which_it_is_true(setup):
    assert matches(SHOWS, ABOUT[setup]).int().tolist() == MATCHES[setup]


def test_positive_targets_are_normalised_by_row():
    image, text = features(seed=1), features(seed=2)
    logits = (SCALE * image @ text.T).tolist()

    def row(values, positives):
        """Minus the mean log-probability of the positives."""
        total = math.log(sum(map(math.exp, values)))
        return sum(total - values[column] for column in positives) / len(positives)

    positives = [[0, 2], [1], [0, 2]]
    per_image = sum(row(logits[i], positives[i]) for i in range(3)) / 3
    per_text = sum(row([logits[i][j] for i in range(3)], positives[j]) for j in range(3)) / 3
    loss = MatchingClipLoss("positive")(image, text, SCALE, image_shows=SHOWS, text_about=ABOUT["only_entities"])
    assert loss.item() == pytest.approx((per_image + per_text) / 2)


def test_negatives_get_no_target_mass():
    """Equal logits within the matches and far lower ones elsewhere: the loss reaches its least value, ln 2 for two positives."""
    image = torch.tensor([[1.0, 0], [0, 1], [1, 0]], dtype=torch.float64)
    loss = MatchingClipLoss("positive")(
        image, image, torch.tensor(100.0), image_shows=SHOWS, text_about=ABOUT["only_entities"]
    )
    assert loss.item() == pytest.approx(2 / 3 * math.log(2))


def test_masked_matches_are_no_negatives():
    image, text = features(seed=1), features(seed=2)
    loss = MatchingClipLoss("mask")(image, text, SCALE, image_shows=SHOWS, text_about=ABOUT["coco_original"])
    logits = SCALE * image @ text.T
    logits[0, 1] = logits[1, 0] = -torch.inf
    own = torch.arange(3)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(loss, expected)


def test_binary_targets_score_every_pair_on_its_own():
    image, text = features(seed=1), features(seed=2)
    target = torch.tensor(MATCHES["only_entities"]).double()
    loss = MatchingClipLoss("positive", binary=True)(
        image, text, SCALE, torch.tensor(-2.0), image_shows=SHOWS, text_about=ABOUT["only_entities"]
    )
    p = torch.sigmoid(SCALE * image @ text.T - 2)
    torch.testing.assert_close(loss, -(target * p.log() + (1 - target) * (1 - p).log()).mean())


@pytest.mark.parametrize("others", ["mask", "positive"])
def test_without_other_matches_they_are_open_clip_s_own(others):
    image, text, bias = features(seed=1), features(seed=2), torch.tensor(-10.0)
    labels = {"image_shows": SHOWS, "text_about": SHOWS}
    torch.testing.assert_close(MatchingClipLoss(others)(image, text, SCALE, **labels), ClipLoss()(image, text, SCALE))
    torch.testing.assert_close(
        MatchingSigLipLoss(others)(image, text, SCALE, bias, **labels), SigLipLoss()(image, text, SCALE, bias)
    )


def test_the_sigmoid_loss_with_other_matches():
    image, text, bias = features(seed=1), features(seed=2), torch.tensor(-1.0)
    logits = SCALE * image @ text.T + bias
    labels = {"image_shows": SHOWS, "text_about": ABOUT["only_entities"]}
    match = torch.tensor(MATCHES["only_entities"]).bool()
    each = -F.logsigmoid(torch.where(match, logits, -logits))
    torch.testing.assert_close(MatchingSigLipLoss("positive")(image, text, SCALE, bias, **labels), each.sum() / 3)
    beside = match & ~torch.eye(3, dtype=torch.bool)
    kept = each.masked_fill(beside, 0)
    torch.testing.assert_close(MatchingSigLipLoss("mask")(image, text, SCALE, bias, **labels), kept.sum() / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("others", ["mask", "positive"])
def test_half_precision_features_give_a_finite_loss_and_gradient(dtype, others):
    image, text = features(seed=1).to(dtype).requires_grad_(), features(seed=2).to(dtype)
    loss = MatchingClipLoss(others)(image, text, SCALE.to(dtype), image_shows=SHOWS, text_about=ABOUT["only_entities"])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(image.grad).all() and image.grad.any()


def labelled(setups):
    """Features and labels of three images with a text a setup, item by item."""
    texts = torch.stack([features(seed=number) for number in range(len(setups))], dim=1).flatten(0, 1)
    about = torch.stack([ABOUT[setup] for setup in setups], dim=1).flatten(0, 1)
    return texts, {"image_shows": SHOWS.repeat_interleave(len(setups), 0), "text_about": about}


def test_a_mix_is_the_weighted_sum_of_its_setups():
    setups = ("with_entities", "only_entities", "coco_original")
    options = IdentityOptions(setup="with_entities=1,only_entities=0.1,coco_original=0.5")
    loss = identity_loss(open_clip.create_loss, host_args(), options)
    image = features(seed=9)
    texts, labels = labelled(setups)
    terms = loss(image, texts, SCALE, output_dict=True, **labels)
    assert list(terms) == [f"{setup}_loss" for setup in setups]
    torch.testing.assert_close(terms["with_entities_loss"], ClipLoss()(image, texts[0::3], SCALE))
    torch.testing.assert_close(terms["coco_original_loss"], 0.5 * ClipLoss()(image, texts[2::3], SCALE))
    entities = MatchingClipLoss("positive")(
        image, texts[1::3], SCALE, image_shows=SHOWS, text_about=ABOUT["only_entities"]
    )
    torch.testing.assert_close(terms["only_entities_loss"], 0.1 * entities)
    torch.testing.assert_close(loss(image, texts, SCALE, **labels), sum(terms.values()))
    with pytest.raises(IdClipError, match="3 images has 8 texts, but 3 training setups"):
        loss(image, texts[:8], SCALE)


def test_the_host_s_loss_is_used_where_it_says_everything():
    assert type(identity_loss(open_clip.create_loss, host_args(), IdentityOptions())) is ClipLoss
    siglip = host_args(siglip=True)
    assert type(identity_loss(open_clip.create_loss, siglip, IdentityOptions(setup="coco_original"))) is SigLipLoss
    halved = identity_loss(open_clip.create_loss, host_args(), IdentityOptions(setup="with_entities=0.5"))
    image, text = features(seed=1), features(seed=2)
    torch.testing.assert_close(halved(image, text, SCALE), 0.5 * ClipLoss()(image, text, SCALE))


@pytest.mark.parametrize(
    ("siglip", "entity_loss", "kind", "binary"),
    [
        (False, "cross_entropy", MatchingClipLoss, False),
        (False, "bce", MatchingClipLoss, True),
        (True, "cross_entropy", MatchingClipLoss, False),
        (True, "bce", MatchingSigLipLoss, None),
    ],
)
def test_the_entity_loss_is_chosen_by_flags(siglip, entity_loss, kind, binary):
    options = IdentityOptions(setup="only_entities", entity_loss=entity_loss)
    (term,) = identity_loss(open_clip.create_loss, host_args(siglip=siglip), options).terms
    assert type(term.loss) is kind and term.loss.others == "positive" and getattr(term.loss, "binary", None) == binary


@pytest.mark.parametrize("siglip", [False, True])
@pytest.mark.parametrize("false_negatives", ["mask", "positive"])
def test_false_negatives_are_treated_as_the_flag_says(siglip, false_negatives):
    options = IdentityOptions(setup="coco_original", false_negatives=false_negatives)
    (term,) = identity_loss(open_clip.create_loss, host_args(siglip=siglip), options).terms
    assert isinstance(term, Term) and term.loss.others == false_negatives
    assert type(term.loss) is (MatchingSigLipLoss if siglip else MatchingClipLoss)


@pytest.mark.parametrize(("setting", "flag"), [("distill", "--distill-model"), ("horovod", "--horovod")])
def test_what_knows_no_labels_is_refused(setting, flag):
    with pytest.raises(IdClipError, match=f"{flag} works with one training setup"):
        identity_loss(open_clip.create_loss, host_args(**{setting: True}), IdentityOptions(setup="only_entities"))


def test_the_losses_are_modules_that_the_host_can_call_with_what_the_model_returns():
    loss = SetupsLoss([Term("with_entities", 1.0, ClipLoss(), False)])
    output = {"image_features": features(seed=1), "text_features": features(seed=2), "logit_scale": SCALE}
    assert set(loss(**output, output_dict=True)) == {"with_entities_loss"}
