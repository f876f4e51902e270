"""JSON that every parser reads: one writer, and no other in the sources."""

import ast
import json
from math import inf, nan

import pytest
from places import ROOT

from open_clip_idplugin.evaluation.results import Results
from open_clip_idplugin.evaluation.tables import to_json
from open_clip_idplugin.storage.finite_json import json_text


def parsed(text: str):
    """Read as parsers do that keep to the standard."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_none_become_null():
    value = {"a": [nan, inf, -inf, 1.5, (2.0, nan)], "b": {"c": nan, "d": "NaN"}, "e": True, "f": None}
    assert parsed(json_text(value)) == {
        "a": [None, None, None, 1.5, [2.0, None]],
        "b": {"c": None, "d": "NaN"},
        "e": True,
        "f": None,
    }
    fine = {"b": 1, "a": ["é", 0.1]}
    for options in ({}, {"indent": 1, "ensure_ascii": False}, {"sort_keys": True}):
        assert json_text(fine, **options) == json.dumps(fine, **options)
    with pytest.raises(TypeError):
        json_text({"a": object()})


def test_results_of_an_evaluation():
    results = Results(metrics={"conf1": {"t2i_R@1": nan, "sum": 0.5}}, strata={"conf1": {"hair": {"t2i_R@1": inf}}})
    values = json.dumps(parsed(to_json(results, {"factor": -inf})))
    assert values.count("null") == 3 and "0.5" in values


def writers(tree: ast.AST):
    """Calls and imports of what writes JSON, but for those that refuse such numbers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("json", "orjson"):
            yield from (alias.name for alias in node.names if alias.name.startswith("dump"))
        if isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
            dumps = name.rpartition(".")[0] in ("json", "orjson", "simplejson", "ujson") and ".dump" in name
            if (dumps and options.get("allow_nan") != "False") or name.endswith("JSONEncoder"):
                yield name


def test_no_module_writes_json_in_another_way():
    found = []
    for package in ("open_clip_idplugin", "webdataset_tools", "training_patches"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(ROOT)}: {name}" for name in writers(tree)]
    assert not found
    assert list(
        writers(ast.parse("import json\nfrom json import dump\njson.dumps(1)\njson.dump(1, f, allow_nan=False)"))
    )
