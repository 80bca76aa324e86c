"""The server keeps to its own schema: schemathesis sends what it allows, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from robustmdiff.serving.tokens import Tokens
from tests.serving.conftest import ROOT, house

TOKEN = "correct-horse-battery"
METHODS = {"get", "post"}


def test_the_schema_is_of_the_paths_that_there_are(served):
    documented = served.client.get("/openapi.json").json()["paths"]
    routes = {(route.path, method.lower()) for route in served.client.app.routes for method in route.methods}
    assert {(path, method) for path, of in documented.items() for method in METHODS & {*of}} == routes


def test_where_a_token_is_asked_for_the_schema_says_so_of_all_but_what_is_for_anyone(tmp_path):
    for served in house(tmp_path, tokens=Tokens({"ward-3": TOKEN})):
        assert served.client.get("/openapi.json").status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        documented = served.client.get("/openapi.json", headers=headers).json()["paths"]
        anyone = {"/", "/health", "/v2/health/live", "/v2/health/ready"}
        for path, operations in documented.items():
            for method in METHODS & {*operations}:
                assert ("401" in operations[method]["responses"]) == (path not in anyone)
                assert ("security" in operations[method]) == (path not in anyone)


def test_the_schema_has_the_task_and_the_tensors(served):
    paths = served.client.get("/openapi.json").json()["paths"]
    content = paths["/predict"]["post"]["requestBody"]["content"]
    of = {kind: content[kind]["schema"]["properties"] for kind in content}
    assert [*of["application/json"]] == [*of["multipart/form-data"]] == ["scan", "note", "labs"]
    cells = of["multipart/form-data"]["labs"]["anyOf"][0]["properties"]
    assert cells["CRP"]["anyOf"][0]["description"] == "mg/L"
    assert cells["sex"]["anyOf"][0] == {"enum": ["f", "m"]}
    asked = paths["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    tensors = asked["properties"]["inputs"]["items"]["anyOf"]
    assert tensors[1]["properties"]["name"] == {"const": "scan.pixels"}
    assert tensors[1]["properties"]["shape"]["prefixItems"][1:] == [{"const": 1}, {"const": 4}, {"const": 4}]


def test_a_method_that_a_path_has_not_is_refused_with_those_that_it_has(served):
    response = served.client.put("/predict", json={})
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.fuzz
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_it_says_what_the_schema_says_whatever_comes(start):
    running = start(patients=64, token=TOKEN, beside="run generator")
    words = [sys.executable, "-m", "schemathesis.cli", "--config-file", "tests/serving/schemathesis.toml"]
    words += ["run", f"{running.url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}"]
    words += ["--max-examples", "30", "--seed", "1", "--no-color"]
    found = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True
    )
    shortened = "\n".join(line[:300] for line in found.stdout.splitlines())
    assert found.returncode == 0, shortened + found.stderr
    running.end()
