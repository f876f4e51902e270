"""The OpenAPI description: in step with the request parser, and the service under fuzzing on its basis."""

from dataclasses import fields

import pytest

pytest.importorskip("clip_retrieval")
schemathesis = pytest.importorskip("schemathesis")

import hypothesis  # noqa: E402
import hypothesis.strategies as st  # noqa: E402
from page_fixtures import ADA, page_world  # noqa: E402, F401
from retrieval_fixtures import tiny_models  # noqa: E402, F401

from open_clip_idplugin.retrieval.ranking.knn_request import KnnRequest, parse_request  # noqa: E402
from open_clip_idplugin.retrieval.service.limits import Limits  # noqa: E402
from open_clip_idplugin.retrieval.service.openapi import people_fields, search_fields  # noqa: E402

# Drawn values of all fields together hardly ever fit: some requests have what is needed and few others, so that some are
# answered.
SEARCH = "POST /knn-service"
NEEDED = {
    SEARCH: {"text": "a dog"},
    "POST /people/in-image": {"image_id": 20},
    "POST /people/enroll": {"name": "Somebody", "image_id": 20},
}
OFTEN_RIGHT = ("num_images", "num_result_ids", "deduplicate", "include_images", "find_names", "exclude_ids", "offset")


class Noting(dict):
    """Notes which fields are asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)

    def __contains__(self, name):
        self.asked.add(name)
        return super().__contains__(name)


def test_description_and_parser_know_the_same_fields():
    values = Noting({"text": "x"})
    parse_request(values)
    described = {**search_fields(["archive"], Limits()), **people_fields(Limits())}
    assert values.asked == set(described)
    assert {field.name for field in fields(KnnRequest)} - {"ranking"} <= set(described)


def test_defaults_agree():
    request = parse_request({"text": "x"})
    for name, schema in search_fields(["archive"], Limits()).items():
        if "default" in schema:
            assert getattr(request, name) == schema["default"], name


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
