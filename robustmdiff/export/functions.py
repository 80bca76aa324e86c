"""Our ops in ONNX: functions of a domain of our own, whose bodies are the definitions in standard operators.

A runtime that has a kernel for `robustmdiff::masked_attention` may take it; every other one takes the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

from robustmdiff.export.operators import exported_operators

DOMAIN, VERSION, OPSET = "robustmdiff", 1, 18

# Patients' tokens are padded and viewed flat: B patients have Tq / B rows of queries and Tk / B of keys each,
# and their segments lie within these. exp(-60000) is 0, and -60000 is finite in float16. Softmax is float32.
TEXTS = (
    """
within (x, segments) => (inside)
{
    B = Shape <start = 0, end = 1> (segments)
    T = Shape <start = 0, end = 1> (x)
    L = Div (T, B)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    last = Constant <value_ints = [2]> ()
    l = Squeeze (L)
    b = Squeeze (B)
    row = Range (zero, l, one)
    patient = Range (zero, b, one)
    first = Mul (patient, L)
    axes = Constant <value_ints = [1, 2]> ()
    first3 = Unsqueeze (first, axes)
    start32, length32 = Split <axis = 2, num_outputs = 2> (segments)
    start = Cast <to = 7> (start32)
    length = Cast <to = 7> (length32)
    begin = Sub (start, first3)
    end = Add (begin, length)
    after = GreaterOrEqual (row, begin)
    before = Less (row, end)
    in_each = And (after, before)
    counted = Cast <to = 1> (in_each)
    modalities = Constant <value_ints = [1]> ()
    any = ReduceMax <keepdims = 0> (counted, modalities)
    inside = Cast <to = 9> (any)
}
""",
    """
masked_attention <scale: float = 1.0> (q, k, v, q_segments, k_segments) => (out, lse)
{
    asks = robustmdiff.within (q, q_segments)
    asked = robustmdiff.within (k, k_segments)
    B = Shape <start = 0, end = 1> (k_segments)
    heads = Shape <start = 1, end = 3> (q)
    rest = Constant <value_ints = [-1]> ()
    by_patient = Concat <axis = 0> (B, rest, heads)
    q4 = Reshape (q, by_patient)
    k4 = Reshape (k, by_patient)
    v4 = Reshape (v, by_patient)
    zero = Constant <value_float = 0.0> ()
    nothing = CastLike (zero, v)
    last = Constant <value_ints = [2]> ()
    of_rows = Constant <value_ints = [2, 3]> ()
    asked_rows = Unsqueeze (asked, of_rows)
    present = Where (asked_rows, v4, nothing)
    Q = Transpose <perm = [0, 2, 1, 3]> (q4)
    K = Transpose <perm = [0, 2, 3, 1]> (k4)
    V = Transpose <perm = [0, 2, 1, 3]> (present)
    product = MatMul (Q, K)
    in_float = Cast <to = 1> (product)
    c = Constant <value_float: float = @scale> ()
    scores = Mul (in_float, c)
    of_keys = Constant <value_ints = [1, 2]> ()
    asked_keys = Unsqueeze (asked, of_keys)
    never = Constant <value_float = -60000.0> ()
    seen = Where (asked_keys, scores, never)
    weight = Softmax <axis = -1> (seen)
    like = CastLike (weight, v)
    mean = MatMul (like, V)
    read = Transpose <perm = [0, 2, 1, 3]> (mean)
    counted = Cast <to = 1> (asked)
    columns = Constant <value_ints = [1]> ()
    most = ReduceMax (counted, columns)
    anything = Cast <to = 9> (most)
    answered = And (asks, anything)
    answered_rows = Unsqueeze (answered, of_rows)
    kept = Where (answered_rows, read, nothing)
    shape = Shape (q)
    out = Reshape (kept, shape)
    sum = ReduceLogSumExp <keepdims = 0> (seen, rest)
    sums = Transpose <perm = [0, 2, 1]> (sum)
    answered_sums = Unsqueeze (answered, last)
    none = Constant <value_float = -1e30> ()
    kept_sums = Where (answered_sums, sums, none)
    rows = Shape <start = 0, end = 2> (q)
    lse = Reshape (kept_sums, rows)
}
""",
    """
knowledge_attention <scale: float = 1.0> (q, concepts, log_prior) => (out, lse)
{
    zero = Constant <value_float = 0.0> ()
    nothing = CastLike (zero, concepts)
    never = Constant <value_float = -60000.0> ()
    prior = Cast <to = 1> (log_prior)
    there = Greater (prior, never)
    columns = Constant <value_ints = [1]> ()
    there_rows = Unsqueeze (there, columns)
    K = Where (there_rows, concepts, nothing)
    KT = Transpose <perm = [1, 0]> (K)
    product = MatMul (q, KT)
    in_float = Cast <to = 1> (product)
    c = Constant <value_float: float = @scale> ()
    scaled = Mul (in_float, c)
    scores = Add (scaled, prior)
    seen = Where (there, scores, never)
    weight = Softmax <axis = -1> (seen)
    like = CastLike (weight, concepts)
    mean = MatMul (like, K)
    counted = Cast <to = 1> (there)
    most = ReduceMax <keepdims = 0> (counted)
    anything = Cast <to = 9> (most)
    out = Where (anything, mean, nothing)
    rest = Constant <value_ints = [-1]> ()
    sum = ReduceLogSumExp <keepdims = 0> (seen, rest)
    none = Constant <value_float = -1e30> ()
    lse = Where (anything, sum, none)
}
""",
)
FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]


def functions() -> list[onnx.FunctionProto]:
    """What a model that holds our ops carries along."""
    head = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}, "{DOMAIN}": {VERSION}]>'
    return [onnx.parser.parse_function(head + text) for text in TEXTS]


def translations() -> dict[Any, Callable[..., Any]]:
    """For `torch.onnx.export`: the operators of ours that a graph may hold -> their nodes."""
    scale = OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT, required=True)
    lse = OpSchema.FormalParameter("lse", "tensor(float)")
    attend = _node("masked_attention", 5, [lse], [scale])
    consult = _node("knowledge_attention", 3, [lse], [scale])

    def masked_attention(
        q: Any,
        k: Any,
        v: Any,
        q_segments: Any,
        k_segments: Any,
        affinity: Any,
        key: Any,
        scale: float,
        exclude_own: bool,
        dropout_p: float,
    ) -> Any:
        if affinity is not None or exclude_own or dropout_p:
            raise ValueError("masked_attention: affinity, exclude_own and dropout_p have no ONNX function")
        return attend(q, k, v, q_segments, k_segments, scale=scale)

    def knowledge_attention(q: Any, concepts: Any, log_prior: Any, scale: float) -> Any:
        return consult(q, concepts, log_prior, scale=scale)

    return exported_operators(masked_attention, knowledge_attention)


def _node(name: str, inputs: int, more: Sequence[Any] = (), attributes: Sequence[Any] = ()) -> Op:
    """A node of ours, whose first input gives the first output's type; `more` outputs follow."""
    schema = OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[OpSchema.FormalParameter(f"input_{i}", f"T{i}") for i in range(inputs)],
        outputs=[OpSchema.FormalParameter("out", "T0"), *more],
        type_constraints=[(f"T{i}", [*FLOATS, "tensor(int32)", "tensor(int64)"], "") for i in range(inputs)],
        attributes=list(attributes),
    )
    if not onnx.defs.has(name, DOMAIN):
        onnx.defs.register_schema(schema)
    return Op(Opset(DOMAIN, VERSION), name, schema)
