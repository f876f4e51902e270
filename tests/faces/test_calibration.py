"""Calibrations: fits to known distributions, thresholds, probabilities, files, and the verb."""

import json
import stat
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from face_index_fixtures import unit, write_face_table

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import calibration_files
from open_clip_idplugin.faces.calibrating import calibrate_scores, misfit, wilson
from open_clip_idplugin.faces.calibration import Calibration, assumed_calibration
from open_clip_idplugin.faces.calibration_files import load_calibration, read_calibration, user_file, write_calibration
from open_clip_idplugin.faces.face_table import load_face_table
from open_clip_idplugin.faces.score_distributions import ASSUMED, GROUPS, LABELS, CalibrationError, impostors_of
from open_clip_idplugin.faces.score_pairs import UNKNOWN, CollectedFaces, Scores, collect_scores
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.calibrate_command import calibrate
from open_clip_idplugin.queries.fusion import Fusion

MODEL = "onnx:some/net-0123456789ab"
MINIATURE = "insightface:miniature/recogniser-ff9cc405493d"
NORMAL = NormalDist()


def drawn_scores(impostor: tuple[float, float], genuine: tuple[float, float], pairs: int = 20_000) -> Scores:
    rng = np.random.default_rng(0)
    people = rng.integers(0, 400, (pairs, 2))
    return Scores(
        np.clip(rng.normal(*impostor, pairs), -1, 1).astype(np.float32),
        np.clip(rng.normal(*genuine, 300), -1, 1).astype(np.float32),
        people,
        LABELS,
        "drawn",
    )


def people_on_photos(people: int, per_person: int, spread: float, shift: float = 0.0, size: int = 64):
    """Faces of people, a photo each; `shift` along one axis brings all cosines up, as dlib's are."""
    rng = np.random.default_rng(people)
    centres = np.repeat(unit(rng.standard_normal((people, size))), per_person, axis=0)
    rows = unit(centres + spread * unit(rng.standard_normal(centres.shape)))
    rows = unit(rows + shift * np.eye(size, dtype=np.float32)[0])
    return rows.astype(np.float32), np.repeat(np.arange(people), per_person)


def collected(rows, people, photos=None, boxes=None) -> CollectedFaces:
    count = len(rows)
    boxes = np.zeros((count, 4), np.float32) if boxes is None else boxes
    return CollectedFaces(rows, np.asarray(people), np.arange(count) if photos is None else np.asarray(photos), boxes)


@pytest.mark.parametrize("scale", [(0.0, 0.08), (0.1, 0.15)])
def test_thresholds_of_a_known_distribution(scale):
    measured = calibrate_scores(drawn_scores(scale, (0.7, 0.1)), MODEL, "drawn")
    mean, deviation = scale
    assert measured.impostors.mean == pytest.approx(mean, abs=0.005)
    assert measured.impostors.deviation == pytest.approx(deviation, rel=0.03)
    for rate in (0.1, 0.01, 1e-3):
        expected = mean - deviation * NORMAL.inv_cdf(rate)
        assert measured.threshold(rate) == pytest.approx(expected, abs=0.15 * deviation)
        assert measured.measures(rate)
    assert not measured.measures(1e-4)  # 2 of 20,000 pairs
    assert measured.threshold(1e-4) == pytest.approx(mean - deviation * NORMAL.inv_cdf(1e-4), abs=0.3 * deviation)
    for point in measured.points:
        assert point.cosine_low <= point.cosine <= point.cosine_high
        assert point.measured == measured.measures(point.fmr)
        assert point.fnmr_low <= point.fnmr <= point.fnmr_high
    narrow, wide = (point.cosine_high - point.cosine_low for point in (measured.points[0], measured.points[-1]))
    assert narrow < wide


def test_threshold_and_rate_turn_each_other_round():
    measured = calibrate_scores(drawn_scores((0.85, 0.03), (0.975, 0.01)), MODEL, "drawn")
    rates = (0.7, 0.4, 0.1, 0.01, 1e-3, 1e-4, 1e-6)
    cosines = [measured.threshold(rate) for rate in rates]
    assert cosines == sorted(cosines)
    assert cosines[-1] <= 1
    for rate, cosine in zip(rates, cosines, strict=True):
        if cosine < 1:
            assert measured.false_match_rate(cosine) == pytest.approx(rate, rel=0.02)
    misses = [measured.false_non_match_rate(cosine) for cosine in cosines]
    assert misses == sorted(misses)
    assert measured.threshold(1 - 1e-16) >= -1
    assert measured.threshold(5e-324) <= 1
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        measured.threshold(0)


def test_another_scale_gives_the_same_standardised_scores():
    base = drawn_scores((0.0, 0.1), (0.7, 0.1))
    crowded = replace(base, impostors=0.85 + 0.15 * base.impostors, genuines=0.85 + 0.15 * base.genuines)
    one, other = (calibrate_scores(scores, MODEL, "drawn") for scores in (base, crowded))
    cosines = np.linspace(-0.3, 0.9, 9)
    np.testing.assert_allclose(one.standardise(cosines), other.standardise(0.85 + 0.15 * cosines), rtol=1e-3, atol=1e-3)
    assert other.threshold(1e-3) > 0.85 > one.threshold(1e-3)


def test_probability_rises_with_the_cosine_and_falls_with_the_faces():
    measured = calibrate_scores(drawn_scores((0.0, 0.1), (0.7, 0.15)), MODEL, "drawn")
    cosines = np.linspace(-1, 1, 201)
    for faces in (1, 4, 30):
        values = measured.probability(cosines, np.full(201, faces), 1000)
        assert (np.diff(values) >= 0).all()
        assert values[0] < 0.01
        assert values[-1] > 0.99
    few, many = (measured.probability(np.array([0.38]), np.array([faces]), 1000)[0] for faces in (1, 30))
    assert many < few
    small, large = (measured.probability(np.array([0.38]), np.array([1]), images)[0] for images in (1000, 10**6))
    assert large < small
    # No face was found: nothing is known beyond the prior.
    np.testing.assert_allclose(measured.probability(np.array([0.9]), np.array([0]), 1000), [0.01])
    assert measured.prior(10**6) == pytest.approx(1e-5)
    told = measured.with_prior(100, 0.3)
    np.testing.assert_allclose(told.probability(np.array([0.9]), np.array([0]), 200), [0.3])
    with pytest.raises(CalibrationError, match="prior"):
        measured.with_prior(100, 1.5)


def test_a_probability_is_the_share_of_images_that_show_the_person():
    """Images are drawn from the model itself: of those with a probability near p, about p show the person."""
    measured = calibrate_scores(drawn_scores((0.0, 0.1), (0.45, 0.12)), MODEL, "drawn")
    rng = np.random.default_rng(3)
    count, prior = 60_000, 0.1
    faces, shows = rng.integers(1, 5, count), rng.random(count) < prior
    scores = np.where(np.arange(4) < faces[:, None], rng.normal(0.0, 0.1, (count, 4)), -1)
    scores[:, 0] = np.where(shows, rng.normal(0.45, 0.12, count), scores[:, 0])
    told = measured.with_prior(1e9, prior).probability(scores.max(axis=1), faces, count)
    for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 0.95)):
        inside = (told >= low) & (told < high)
        assert inside.sum() > 100
        assert shows[inside].mean() == pytest.approx(told[inside].mean(), abs=0.1)


def test_neutral_lies_between_both_kinds():
    measured = calibrate_scores(drawn_scores((0.0, 0.1), (0.7, 0.1)), MODEL, "drawn")
    assert 0.25 < measured.neutral < 0.45
    assert measured.probability(np.array([measured.neutral]), np.array([1]), 100)[0] == pytest.approx(0.01, rel=0.05)


def test_nobody_measured():
    assumed = load_calibration("onnx:nobody/knows-ffffffffffff")
    assert assumed.assumed
    assert not assumed.measures(0.01)
    assert assumed.threshold(1e-3) == pytest.approx(0.35)  # ArcFace's
    assert 0.35 < assumed.threshold(1e-4) < 0.5
    assert 0.2 < assumed.neutral < 0.35
    assert assumed.genuines.origin == ASSUMED
    assert load_calibration(None).assumed


@pytest.mark.parametrize("shift", [0.0, 2.4])
def test_labels_and_no_labels_find_the_same_scale(shift):
    rows, people = people_on_photos(60, 3, 0.8, shift)
    named = calibrate_scores(collect_scores(collected(rows, people)), MODEL, "named")
    unnamed = collect_scores(collected(rows, np.full(len(rows), UNKNOWN)))
    assert unnamed.origin == GROUPS
    measured = calibrate_scores(unnamed, MODEL, "unnamed")
    assert measured.impostors.mean == pytest.approx(named.impostors.mean, abs=0.2 * named.impostors.deviation)
    assert measured.impostors.deviation == pytest.approx(named.impostors.deviation, rel=0.1)
    # the threshold of names parts the two kinds of pairs
    same = people[:, None] == people[None]
    cosines, pairs = rows @ rows.T, np.triu_indices(len(rows), 1)
    for found in (named, measured):
        reached = (cosines >= found.threshold(1e-3))[pairs]
        assert reached[same[pairs]].mean() > 0.9
        assert reached[~same[pairs]].mean() < 5e-3


def test_faces_of_one_photograph_are_different_people_but_for_a_face_found_twice():
    rows, _ = people_on_photos(1200, 1, 0.0)
    rows[1] = rows[0]  # the first photograph shows one face, found twice
    photos = np.arange(1200) // 2
    boxes = np.tile(np.array([[0, 0, 40, 40], [60, 0, 100, 40]], np.float32), (600, 1))
    apart = collect_scores(collected(rows, np.full(1200, UNKNOWN), photos, boxes))
    assert apart.impostors.max() > 0.99
    boxes[1] = [2, 2, 42, 42]
    once = collect_scores(collected(rows, np.full(1200, UNKNOWN), photos, boxes))
    assert once.impostors.max() < 0.99


def test_too_few_pairs_are_refused():
    rows, people = people_on_photos(4, 2, 0.5)
    with pytest.raises(CalibrationError, match="only 24 pairs"):
        calibrate_scores(collect_scores(collected(rows, people)), MODEL, "few")
    with pytest.raises(CalibrationError, match="same score"):
        impostors_of(np.full(500, 0.3))


def test_other_scores_than_the_calibration_are_reported():
    measured = calibrate_scores(drawn_scores((0.0, 0.1), (0.7, 0.1)), MODEL, "drawn")
    assert misfit(measured, drawn_scores((0.0, 0.1), (0.7, 0.1), 5000).impostors) is None
    assert "do not fit" in str(misfit(measured, drawn_scores((0.85, 0.04), (0.9, 0.1), 5000).impostors))
    assert "do not fit" in str(misfit(measured, drawn_scores((0.05, 0.2), (0.9, 0.1), 5000).impostors))
    assert misfit(measured, np.full(10, 0.9)) is None  # too few to say anything


def test_wilson_by_hand():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(5, 10)
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)  # Wilson 1927, as every table has it
    assert wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)


def test_the_first_file_counts(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shipped = load_calibration(MINIATURE)
    assert not shipped.assumed
    write_calibration(user_file(MINIATURE), replace(shipped, source="mine"))
    assert stat.S_IMODE(user_file(MINIATURE).stat().st_mode) == 0o600
    assert load_calibration(MINIATURE).source == "mine"
    beside = tmp_path / "faces"
    write_calibration(beside / calibration_files.FILE, replace(shipped, source="of this collection"))
    assert load_calibration(MINIATURE, beside).source == "of this collection"
    # the name is for people: kind and digest are the model
    assert load_calibration("insightface:copied/recogniser-ff9cc405493d", beside).source == "of this collection"
    assert load_calibration("onnx:miniature/recogniser-ff9cc405493d", beside).assumed
    (beside / calibration_files.FILE).write_text("{")
    assert load_calibration(MINIATURE, beside).source == "mine"
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"impostors": None},
        {"highest_prior": 2},
        {"extra": 1},
        {"model_id": 7},
    ],
)
def test_files_of_another_form_are_refused(tmp_path, change):
    path = tmp_path / "calibration.json"
    values = json.loads(load_calibration(MINIATURE).to_json())
    assert Calibration.from_json(json.dumps(values)) == load_calibration(MINIATURE)
    path.write_text(json.dumps({**values, **change}))
    with pytest.raises(CalibrationError, match=r"calibration\.json' cannot be read"):
        read_calibration(path)


@pytest.mark.parametrize("quantiles", [[[0.1, 0.3], [0.2, 0.4]], [[0.5, 0.0], [0.1, -0.1]], [[0.5, float("nan")]], []])
def test_curves_without_sense_are_refused(quantiles):
    values = json.loads(load_calibration(MINIATURE).to_json())
    values["impostors"]["quantiles"] = quantiles
    with pytest.raises(CalibrationError):
        Calibration.from_json(json.dumps(values))


def test_the_shipped_file_is_what_the_command_measures():
    """A fourth of the people gives the same scale; the model's own hash says whose it is."""
    from open_clip_idplugin.faces import load_face_engine
    from webdataset_tools.miniature.face_calibration import calibrate_pack

    engine = load_face_engine("insightface:miniature")
    shipped, again = load_calibration(engine.model_id), calibrate_pack(engine, 25)
    assert not shipped.assumed
    assert again.impostors.mean == pytest.approx(shipped.impostors.mean, abs=0.3 * shipped.impostors.deviation)
    assert again.threshold(0.01) == pytest.approx(shipped.threshold(0.01), abs=0.1)
    assert again.genuines.mean == pytest.approx(shipped.genuines.mean, abs=0.1)


def test_the_verb_measures_tables_and_galleries_and_stores(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    rows, people = people_on_photos(50, 3, 0.8, 2.4)
    pictures = {f"p{number}": [row] for number, row in enumerate(rows)}
    table = write_face_table(tmp_path / "table", pictures, MODEL, 64)
    gallery = Gallery(tmp_path / "g.sqlite")
    for person in range(20):
        gallery.enroll(f"Person {person}", rows[people == person], MODEL, photos=["a", "b", "c"])
    gallery.edit("Person 0", consent_until="2001-01-01")  # compared with nothing
    calibrate(face_table=str(table), gallery=str(gallery.path), output=str(tmp_path / "out"), least_face=0)
    out = capsys.readouterr().out
    assert "57 photos of 19 enrolled people" in out
    assert "| 0.001 |" in out
    assert "extrapolated" in out
    stored = load_calibration(MODEL)
    assert stored == read_calibration(tmp_path / "out" / "calibration.json")
    assert stored.genuines.origin == LABELS
    assert stored.genuines.pairs == 57
    assert "<svg" in (tmp_path / "out" / "calibration.svg").read_text()
    for file in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_face_table(table).model_id == MODEL
    calibrate(face_table=str(table), least_face=0, store=False)
    assert load_calibration(MODEL) == stored
    with pytest.raises(IdClipError, match="nothing to measure"):
        calibrate()


def test_equal_ranks_of_the_assumed_scale():
    """Where nobody has measured a model, cosines are added as they are."""
    cosines = np.array([0.1, 0.35])
    np.testing.assert_allclose(Fusion.of(assumed_calibration("x")).standardise(cosines), cosines)
