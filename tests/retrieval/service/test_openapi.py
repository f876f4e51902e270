"""The OpenAPI description: the bounds at which requests are refused, and the service under fuzzing on its basis."""

import pytest

pytest.importorskip("clip_retrieval")
schemathesis = pytest.importorskip("schemathesis")

import hypothesis  # noqa: E402
import hypothesis.strategies as st  # noqa: E402
from page_fixtures import ADA, page_world  # noqa: E402, F401
from retrieval_fixtures import tiny_models  # noqa: E402, F401

from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest, parse_request  # noqa: E402
from open_clip_idplugin.retrieval.service.limits import Limits  # noqa: E402
from open_clip_idplugin.retrieval.service.openapi import describe_service  # noqa: E402

# Drawn values of all fields together hardly ever fit: some requests have what is needed and few others, so that some are
# answered.
SEARCH = "POST /knn-service"
NEEDED = {
    SEARCH: {"text": "a dog"},
    "POST /people/in-image": {"image_id": 20},
    "POST /people/enroll": {"name": "Somebody", "image_id": 20},
}
OFTEN_RIGHT = ("num_images", "num_result_ids", "deduplicate", "include_images", "find_names", "exclude_ids", "offset")


@pytest.fixture(scope="module")
def described():
    """Field -> its schema, as the service publishes it."""
    schema = describe_service(["archive", "bare"], Limits())["paths"]["/knn-service"]["post"]["requestBody"]
    return schema["content"]["application/json"]["schema"]["properties"]


def taken(**values) -> bool:
    try:
        parse_request({"text": "x", **values})
    except BadRequest as error:
        assert str(error).startswith(f"'{next(iter(values))}' ")
        return False
    return True


def test_the_description_is_what_is_taken(described):
    """Every bound that is published is the one at which the parser refuses; null is always the default."""
    usual, tried = parse_request({"text": "x"}), []
    for name, field in described.items():
        assert name == "text" or taken(**{name: None}), name
        assert getattr(usual, name) == field["default"] if field.get("default") else True, name
        assert field["description"]
        step = 1 if "integer" in field.get("type", ()) else 1e-6
        if "minimum" in field:
            assert taken(**{name: field["minimum"]}) and not taken(**{name: field["minimum"] - step}), name
        if "maximum" in field and name not in ("num_images", "num_result_ids"):  # there the service sets its own
            assert taken(**{name: field["maximum"]}) and not taken(**{name: field["maximum"] + step}), name
        if "exclusiveMinimum" in field:
            assert taken(**{name: 1e-9}) and not taken(**{name: field["exclusiveMinimum"]}), name
            assert taken(**{name: 1 - 1e-9}) and not taken(**{name: field["exclusiveMaximum"]}), name
        if "maxLength" in field:
            assert taken(**{name: "x" * field["maxLength"]}) and not taken(**{name: "x" * (field["maxLength"] + 1)})
        if "maxItems" in field:
            item = {"exclude_ids": 1, "identities": "Ada", "faces": [0.5]}[name]
            assert taken(**{name: [item] * field["maxItems"]}) and not taken(**{name: [item] * (field["maxItems"] + 1)})
        if "enum" in field and name != "indice_name":
            assert all(taken(**{name: choice}) for choice in field["enum"]) and not taken(**{name: "other"})
        tried += [
            kind
            for kind in ("minimum", "maximum", "exclusiveMinimum", "maxLength", "maxItems", "enum")
            if kind in field
        ]
    assert len(set(tried)) == 6 and len(tried) > 25
    assert described["num_images"]["maximum"] == Limits().results
    assert described["indice_name"]["enum"] == ["archive", "bare", None]


def test_empty_fields_and_numbers_in_words_are_read_as_ever():
    usual = parse_request({"text": "x"})
    for name in ("negative_text", "fmr", "person_as", "modality", "aesthetic_score", "image", "collapse", "fusion"):
        assert getattr(parse_request({"text": "x", name: ""}), name) == getattr(usual, name)
    request = parse_request({"text": "x", "fmr": "0.01", "aesthetic_score": 7.9, "num_images": 7, "unknown": {}})
    assert (request.fmr, request.aesthetic_score, request.num_result_ids) == (0.01, 7, 7)
    assert not taken(num_images="") and not taken(deduplicate="")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"deduplicate": "yes"}, "'deduplicate' must be true or false, not a string"),
        ({"num_images": 10**6}, "'num_images' must be a whole number from 1 to 100000"),
        ({"offset": 10**6}, "'offset' must be at most 100000"),
        ({"offset": True}, "'offset' must be a whole number from 0"),
        ({"fmr": 0}, "'fmr' is a false match rate: a number between 0 and 1, such as 0.001"),
        ({"face_weight": "x"}, "'face_weight' must be a number, or left out"),
        ({"negative_weight": 11}, "'negative_weight' must be a number from 0 to 10"),
        ({"fusion": 3}, "'fusion' must be a string, not a number"),
        ({"people": {"only": 1}}, "'only' in 'people' must be true or false"),
        ({"people": {"all": 1}}, "'all' in 'people' must be a list of at most 16 enrolled names or face objects"),
        ({"people": {"all": [1]}}, "'all' in 'people' must hold enrolled names or face objects"),
        ({"people": {"any": [{"image_id": -1}]}}, "'image_id' must be a whole number from 0"),
        (
            {"people": {"none": [{"identity": "Ada"}]}},
            "'people.none' has no field 'identity': use photo, embedding, image_id, face, name",
        ),
        ({"people": {"any": ["Ada"], "only": True}}, "'only' in 'people' goes with 'all', not with 'any'"),
        ({"faces": 1}, "'faces' must be a list of at most 16 base64 photos or embeddings"),
        ({"faces": [1e39]}, "the embedding in 'faces' must be a flat list of finite numbers that are not all zero"),
        ({"filters": []}, '\'filters\' must be an object of columns and values, such as {"stratum": "dark"}'),
        ({"image": "%%%"}, "a picture is not valid base64: send the bytes of the file in base64"),
    ],
)
def test_refusals_are_one_sentence(body, sentence):
    with pytest.raises(BadRequest) as refused:
        parse_request({"text": "x", **body})
    assert str(refused.value) == sentence


@pytest.fixture(scope="module")
def app(page_world):  # noqa: F811
    return page_world.app(page_world.gallery("fuzzed", Ada_Lovelace=ADA))


def fuzz(app, examples: int) -> None:
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    counts = {}
    for operation in schema.get_all_operations():
        operation = operation.ok()
        of_all_kinds = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
        seen = counts.setdefault(operation.label, set())

        @hypothesis.settings(
            max_examples=examples if operation.label == SEARCH else examples // 2, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=st.one_of(of_all_kinds), kept=st.none() | st.sets(st.sampled_from(OFTEN_RIGHT)))
        def ask(case, kept):
            needed = NEEDED.get(case.operation.label)
            if kept is not None and needed is not None and isinstance(case.body, dict):
                case.body = {name: value for name, value in case.body.items() if name in kept} | needed
            response = case.call()
            seen.add(response.status_code)  # noqa: B023 - called in this turn of the loop
            assert response.status_code in (200, 400, 413, 415), (response.status_code, response.text[:300])
            if response.status_code != 200:
                message = response.json()["message"]
                assert isinstance(message, str)
                for leak in ("Traceback", "site-packages", "/tmp", ".py"):
                    assert leak not in message
            case.validate_response(
                response,
                checks=[
                    schemathesis.checks.not_a_server_error,
                    schemathesis.specs.openapi.checks.response_schema_conformance,
                    schemathesis.specs.openapi.checks.content_type_conformance,
                ],
            )

        ask()
    for label in (*NEEDED, "POST /people/list"):
        assert {200, 400} <= counts[label], label  # both kinds were tried


def test_fuzzing(app):
    fuzz(app, 60)


@pytest.mark.slow
def test_deeper_fuzzing(app):
    fuzz(app, 3000)
