"""The KServe protocol: to the real client in test_process.py, here to requests that no client would make."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.conftest import FULL, engine, feed_of, house, infer_of, tensor
from tests.serving.test_predict import sentence

URL = "/v2/models/ward/infer"


def outputs(response) -> dict[str, np.ndarray]:
    assert response.status_code == 200, response.text
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in response.json()["outputs"]}


def test_metadata_is_of_the_graph(served):
    said = served.client.get("/v2/models/ward").json()
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in said["inputs"]}
    assert inputs == {
        "scan.at": ("INT64", [-1]),
        "scan.pixels": ("FP32", [-1, 1, 4, 4]),
        "note.at": ("INT64", [-1]),
        "note.input_ids": ("INT64", [-1, -1]),
        "note.lengths": ("INT64", [-1]),
        "labs.at": ("INT64", [-1]),
        "labs.value": ("FP32", [-1, 2]),
        "labs.present": ("BOOL", [-1, 2]),
        "view": ("BOOL", [-1, 3]),
        "noise_u": ("FP32", [2, -1]),
        "noise_z": ("FP32", [-1, 2]),
    }
    assert {each["name"]: (each["datatype"], each["shape"]) for each in said["outputs"]} == {
        "probability": ("FP32", [-1, 2]),
        "in_set": ("BOOL", [-1, 2]),
        "findings": ("FP32", [-1, 2]),
        "draws": ("FP32", [-1, -1, 2]),
        "expected_change": ("FP32", [-1]),
        "entropy_reduction": ("FP32", [-1]),
    }


def test_a_view_may_be_asked_for_and_is_everything_where_it_is_not(served):
    asked = infer_of([10, 20])
    change = outputs(served.client.post(URL, json=asked))["expected_change"]
    assert change.tolist() == pytest.approx([0.304, 0.304])
    asked["inputs"].append(tensor("view", [[True, False, True], [False, True, False]]))
    change = outputs(served.client.post(URL, json=asked))["expected_change"]
    assert change.tolist() == pytest.approx([0.3, 0.004])
    asked["inputs"][-1] = tensor("view", [[True, False, True]])
    response = served.client.post(URL, json=asked)
    assert response.status_code == 400
    assert response.json()["error"] == "view is of 1 patients, expected 2 as scan.at"


def test_it_infers_with_its_own_noise_or_that_of_the_request(served):
    found = outputs(served.client.post(URL, json=infer_of([10, 20])))
    np.testing.assert_allclose(found["probability"][:, 1], [10 / FULL, 20 / FULL])
    assert found["draws"].shape == (2, 3, 2)
    noise = [tensor("noise_u", np.zeros((2, 7))), tensor("noise_z", np.zeros((7, 2)))]
    asked = infer_of([10, 20])
    asked["inputs"] += noise
    assert outputs(served.client.post(URL, json=asked))["draws"].shape == (2, 7, 2)


def test_data_may_be_flat_or_nested_and_outputs_chosen(served):
    asked = infer_of([10, 20], id="q", outputs=[{"name": "in_set"}])
    for each in asked["inputs"]:
        each["data"] = np.ravel(each["data"]).tolist()
    response = served.client.post(URL, json=asked)
    assert response.json()["id"] == "q"
    assert list(outputs(response)) == ["in_set"]


def change(**what):
    """Of the input `of`."""

    def changed(asked):
        of = what.pop("of")
        next(each for each in asked["inputs"] if each["name"] == of).update(what)

    return changed


def without_data(asked, size, shape):
    value = asked["inputs"][6]
    del value["data"]
    value.update(shape=shape, parameters={"binary_data_size": size})


HOSTILE = {
    "no inputs": (lambda a: a.pop("inputs"), "inputs is no list"),
    "inputs of another type": (lambda a: a.update(inputs=[3]), "inputs is no list"),
    "an input is missing": (lambda a: a["inputs"].pop(), "inputs: labs.present is missing"),
    "an input twice": (lambda a: a["inputs"].append(a["inputs"][0]), "names a tensor that there is not"),
    "an unknown input": (change(of="scan.at", name="../../etc/passwd"), "names a tensor that there is not"),
    "a name that is none": (change(of="scan.at", name=["x"]), "names a tensor that there is not"),
    "an unknown output": (lambda a: a.update(outputs=[{"name": "weights"}]), "outputs names a tensor"),
    "more outputs than there are": (
        lambda a: a.update(outputs=[{"name": "draws"}] * 10_000),
        "outputs names a tensor",
    ),
    "another datatype": (change(of="labs.value", datatype="FP64"), "labs.value: the datatype is another"),
    "bytes": (change(of="labs.value", datatype="BYTES"), "expected FP32"),
    "a shape of another rank": (change(of="labs.value", shape=[2]), "expected [-1, 2]"),
    "a negative shape": (change(of="labs.value", shape=[-1, 2]), "expected [-1, 2]"),
    "a shape of fractions": (change(of="labs.value", shape=[2.0, 2]), "expected [-1, 2]"),
    "a shape of truths": (change(of="scan.at", shape=[True]), "expected [-1]"),
    "a shape past int64": (change(of="labs.value", shape=[2**64, 2]), "expected [-1, 2]"),
    "a product that overflows": (
        change(of="note.input_ids", shape=[2**31, 2**31]),
        f"data is not {2**62} values",
    ),
    "a product that overflows, in bytes": (
        lambda a: without_data(a, 0, [2**31, 2]),
        "binary_data_size is not what",
    ),
    "a size without bytes": (lambda a: without_data(a, 16, [2, 2]), "binary_data_size is not what"),
    "a negative size": (lambda a: without_data(a, -16, [2, 2]), "binary_data_size is not what"),
    "fewer data than the shape": (change(of="labs.value", data=[1.0]), "data is not 4 values"),
    "ragged data": (change(of="labs.value", data=[[1.0, 2.0, 3.0], [4.0]]), "data is not 4 values"),
    "data of texts": (change(of="labs.value", data=["x"] * 4), "data is not 4 values"),
    "truths for numbers": (change(of="scan.at", data=[True, False]), "data is not 2 values of INT64"),
    "numbers for truths": (change(of="labs.present", data=[1, 0, 1, 0]), "data is not 4 values of BOOL"),
    "fractions for whole numbers": (change(of="scan.at", data=[0.5, 1.0]), "data is not 2 values of INT64"),
    "a number past int64": (change(of="scan.at", data=[2**70, 0]), "data is not 2 values of INT64"),
    "a number past float32": (change(of="labs.value", data=[1e39, 0.0, 0.0, 0.0]), "NaN or infinite"),
    "shared memory": (
        change(of="scan.at", parameters={"shared_memory_region": "x"}),
        "parameters of scan.at: one is not known",
    ),
    "another parameter": (lambda a: a.update(parameters={"sequence_id": 1}), "one is not known here"),
    "an id that is none": (lambda a: a.update(id=3), "id is not a text"),
    "nobody": (
        lambda a: [each.update(shape=[0], data=[]) for each in a["inputs"] if each["name"].endswith(".at")],
        "scan.at is of 0 patients",
    ),
    "two numbers of patients": (change(of="note.at", shape=[1], data=[-1]), "note disagree in length"),
    "more observations than patients": (
        change(of="note.lengths", shape=[3], data=[1, 1, 1]),
        "note disagree in length",
    ),
    "at points outside": (change(of="labs.at", data=[0, 2]), "labs.at points outside, expected -1 to 1"),
    "at points far before": (change(of="labs.at", data=[-2, 0]), "labs.at points outside"),
    "a length past the words": (change(of="note.lengths", data=[2]), "note.lengths is not of 1 to"),
    "a length of nothing": (change(of="note.lengths", data=[0]), "note.lengths is not of 1 to"),
    "more words than the model reads": (
        change(of="note.input_ids", shape=[1, 17], data=[0] * 17),
        "of at most 16",
    ),
    "a word that there is not": (change(of="note.input_ids", data=[[6]]), "expected 0 to 5"),
    "a word before all": (change(of="note.input_ids", data=[[-1]]), "expected 0 to 5"),
    "half of the noise": (
        lambda a: a["inputs"].append(tensor("noise_u", np.zeros((2, 3)))),
        "some of the noise is missing",
    ),
    "noise that disagrees": (
        lambda a: a["inputs"].extend(
            [tensor("noise_u", np.zeros((2, 3))), tensor("noise_z", np.zeros((4, 2)))]
        ),
        "the noise is of [3, 4] draws",
    ),
    "noise of too many draws": (
        lambda a: a["inputs"].extend(
            [tensor("noise_u", np.zeros((2, 1025))), tensor("noise_z", np.zeros((1025, 2)))]
        ),
        "the noise is of [1025] draws",
    ),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    yield from house(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_requests_are_refused_in_a_sentence(hostile, case):
    spoil, said = HOSTILE[case]
    asked = infer_of([10, 20])
    spoil(asked)
    assert said in sentence(hostile.client.post(URL, json=asked), 400)


def test_a_category_that_there_is_not_is_refused(hostile):
    asked = infer_of([10])
    asked["inputs"][6]["data"], asked["inputs"][7]["data"] = [10.0, 2.0], [True, True]
    said = sentence(hostile.client.post(URL, json=asked), 400)
    assert said == "labs.value of field 'sex' is no category's number, expected 0 to 1"


def test_too_many_patients_are_refused(hostile):
    assert "expected 1 to 64" in sentence(hostile.client.post(URL, json=infer_of([1.0] * 65)), 400)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_nan(hostile, value):
    body = json.dumps(infer_of([10.0])).replace("10.0", value)
    assert "is not JSON" in sentence(hostile.client.post(URL, content=body), 400)


def binary(spoil=lambda head: None, tail=b"", length=None):
    """Body and headers of a request whose values are binary."""
    asked = infer_of([10])
    value = asked["inputs"][6]
    del value["data"]
    value["parameters"] = {"binary_data_size": 8}
    spoil(asked)
    head = json.dumps(asked).encode()
    body = head + np.array([10, 0], "<f4").tobytes() + tail
    return {
        "content": body,
        "headers": {"Inference-Header-Content-Length": str(len(head)) if length is None else length},
    }


def test_binary_in_and_out(hostile):
    asked = binary(lambda head: head.update(parameters={"binary_data_output": True}))
    response = hostile.client.post(URL, **asked)
    length = int(response.headers["Inference-Header-Content-Length"])
    head, rest = json.loads(response.content[:length]), response.content[length:]
    sizes = [each["parameters"]["binary_data_size"] for each in head["outputs"]]
    names = ["probability", "in_set", "findings", "draws", "expected_change", "entropy_reduction"]
    assert [each["name"] for each in head["outputs"]] == names
    assert sum(sizes) == len(rest)
    np.testing.assert_allclose(np.frombuffer(rest[: sizes[0]], "<f4"), [1 - 10 / FULL, 10 / FULL])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (binary(tail=b"x"), "1 bytes follow the inputs"),
        (binary(length="9999"), "is not a number of bytes"),
        (binary(length="-1"), "is not a number of bytes"),
        (binary(length="9" * 30), "is not a number of bytes"),
        (binary(length="x"), "is not a number of bytes"),
        (binary(length="0"), "is not JSON"),
        (binary(lambda head: head["inputs"][6].update(data=[10.0, 0.0])), "or there is data, too"),
        (binary(lambda head: head["inputs"][6]["parameters"].update(binary_data_size=True)), "is not what"),
    ],
)
def test_binary_that_disagrees_is_refused(hostile, asked, said):
    assert said in sentence(hostile.client.post(URL, **asked), 400)


def test_bytes_that_are_no_number_or_no_truth_are_refused(hostile):
    asked = binary()
    asked["content"] = asked["content"][:-8] + np.array([np.nan, 0], "<f4").tobytes()
    assert "NaN or infinite" in sentence(hostile.client.post(URL, **asked), 400)

    def truths(head):
        head["inputs"][6]["data"] = [10.0, 0.0]
        del head["inputs"][6]["parameters"], head["inputs"][7]["data"]
        head["inputs"][7]["parameters"] = {"binary_data_size": 2}

    asked = binary(truths)
    asked["content"] = asked["content"][:-8] + b"\x01\x02"
    assert "bytes other than 0 and 1" in sentence(hostile.client.post(URL, **asked), 400)


def test_what_is_not_served_is_not_found(hostile):
    for path in (
        "/v2/models/other/infer",
        "/v2/models/ward/versions/9/infer",
        "/v2/models/..%2f..%2fetc/infer",
        "/x",
    ):
        sentence(hostile.client.post(path, json=infer_of([1])), 404)
    sentence(hostile.client.get(URL), 405)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(range(8)), st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), JSON)
def test_whatever_stands_in_a_request_is_answered_or_refused(hostile, at, key, value):
    asked = infer_of([10])
    asked["inputs"][at][key] = value
    response = hostile.client.post(URL, content=json.dumps(asked))
    assert response.status_code == 200 or sentence(response, 400)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["scan", "note", "labs"]), JSON) | JSON)
def test_whatever_a_patient_is_it_is_answered_or_refused(hostile, patient):
    headers = {"content-type": "application/json"}
    response = hostile.client.post("/predict", content=json.dumps(patient), headers=headers)
    assert response.status_code in (200, 400, 422), response.text


def test_feeds_of_several_requests_give_what_each_gives_alone():
    from robustmdiff.serving.tensors import join, split

    one, two = feed_of([10]), feed_of([20, 30])
    two["note.at"], two["note.input_ids"] = np.array([-1, 0]), np.array([[2, 4, 3]])
    two["note.lengths"] = np.array([3])
    for feed, view in ((one, [[True, False, False]]), (two, [[False, True, True], [True, True, True]])):
        feed["view"] = np.array(view)
    noise = {"noise_z": np.zeros((3, 2), np.float32)}
    for said, own in zip(split(engine(join([one, two]) | noise), [1, 2]), (one, two), strict=True):
        alone = engine(own | noise)
        for name, x in said.items():
            np.testing.assert_array_equal(x, alone[name])
