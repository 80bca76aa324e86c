"""The ONNX bodies of our ops against their definitions."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from robustmdiff import use_backend
from robustmdiff.export.functions import DOMAIN, OPSET, VERSION, functions
from robustmdiff.ops import knowledge_attention, masked_attention


def session(op: str, inputs: dict[str, tuple[int, int]], outputs: dict[str, int], **attributes):
    """One node of an op; inputs: name -> (type, rank); outputs: name -> rank."""
    node = helper.make_node(op, list(inputs), list(outputs), domain=DOMAIN, **attributes)
    values = [helper.make_tensor_value_info(n, t, [None] * rank) for n, (t, rank) in inputs.items()]
    found = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * r) for n, r in outputs.items()]
    graph = helper.make_graph([node], op, values, found)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions(), ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


ATTEND = session(
    "masked_attention",
    {"q": (1, 3), "k": (1, 3), "v": (1, 3), "q_segments": (6, 3), "k_segments": (6, 3)},
    {"out": 3, "lse": 2},
    scale=0.5,
)
CONSULT = session(
    "knowledge_attention",
    {"q": (1, 3), "concepts": (1, 2), "log_prior": (1, 1)},
    {"out": 3, "lse": 2},
    scale=0.5,
)


@st.composite
def padded_patients(draw):
    """B patients with room for `sizes` tokens of each modality, of which some are absent or shorter."""
    B, sizes = draw(st.integers(1, 4)), draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    length = np.array([[draw(st.integers(0, size)) for size in sizes] for _ in range(B)])
    first = np.cumsum([0, *sizes[:-1]]) + np.arange(B)[:, None] * sum(sizes)
    return sum(sizes), np.stack([first, length], -1).astype(np.int32)


@settings(max_examples=40, deadline=None)
@given(padded_patients(), padded_patients(), st.integers(1, 3), st.integers(1, 8), st.integers(0, 99))
def test_masked_attention_whatever_is_absent_and_whatever_stands_there(asking, asked, H, D, seed):
    (Lq, q_segments), (Lk, k_segments) = asking, asked
    B = min(len(q_segments), len(k_segments))
    q_segments, k_segments = q_segments[:B], k_segments[:B]
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((B * L, H, D)).astype(np.float32) for L in (Lq, Lk, Lk))
    tensors = [torch.from_numpy(x) for x in (q, k, v, q_segments, k_segments)]
    with use_backend(masked_attention="definition"):
        expected = masked_attention(*(x.double() for x in tensors[:3]), *tensors[3:], scale=0.5).numpy()
    for x, segments in ((q, q_segments), (k, k_segments), (v, k_segments)):
        x[~inside(segments, len(x))] = np.nan
    names = [i.name for i in ATTEND.get_inputs()]
    out, _ = ATTEND.run(None, dict(zip(names, (q, k, v, q_segments, k_segments), strict=True)))
    assert np.abs(out - expected).max() < 1e-5


def inside(segments: np.ndarray, rows: int) -> np.ndarray:
    there = np.zeros(rows, dtype=bool)
    for start, length in segments.reshape(-1, 2):
        there[start : start + length] = True
    return there


@pytest.mark.parametrize("present", [7, 3, 0], ids=["all", "some", "none"])
def test_knowledge_attention_whichever_concepts_are_absent(present):
    rng = np.random.default_rng(present)
    q, K, prior = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 2, 4), (7, 4), (7,)))
    prior[present:] = -np.inf
    with use_backend(knowledge_attention="definition"):
        expected = knowledge_attention(
            torch.from_numpy(q).double(), torch.from_numpy(K).double(), torch.from_numpy(prior), scale=0.5
        ).numpy()
    K[present:] = np.nan
    out, _ = CONSULT.run(None, {"q": q, "concepts": K, "log_prior": prior})
    assert np.abs(out - expected).max() < 1e-5
