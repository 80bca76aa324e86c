"""A bias for each query and key of a patient, and a cap on the scores: in torch and in the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustmdiff import explain, use_backend
from robustmdiff.ops import masked_attention, masked_attention_lse, philox_key, segments_from_padded
from robustmdiff.ops.dispatch import BackendError
from robustmdiff.ops.masked_attention import torch_biased
from robustmdiff.ops.registration import NOTHING

B, LQ, LK, H, HKV, D = 4, 5, 7, 4, 2, 3
Q_SEGMENTS = segments_from_padded(torch.tensor([[5], [2], [3], [0]]), [0, 5])
K_SEGMENTS = segments_from_padded(torch.tensor([[3, 2], [1, 0], [0, 0], [3, 4]]), [0, 3, 7])
K_SEGMENTS[0, 1] += torch.tensor([1, 0], dtype=torch.int32)  # a hole between the two
SHAPES = [(B, H, LQ, LK), (1, H, LQ, LK), (B, 1, LQ, LK), (1, 1, LQ, LK), (B, H, 1, LK), (1, H, LQ, 1)]
BACKENDS = ["torch", "definition"]


def draw(shape: tuple[int, ...] = SHAPES[0], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (B * LQ, H, D), "k": (B * LK, HKV, D), "v": (B * LK, HKV, D), "bias": shape}
    return {
        name: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, size in sizes.items()
    }


def rows_of(segments: Tensor, rows: int) -> Tensor:
    """bool [rows], those within a segment"""
    there = torch.zeros(rows, dtype=torch.bool)
    for start, length in segments.flatten(0, 1).tolist():
        there[start : start + length] = True
    return there


def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, softcap: float | None = None) -> Tensor:
    """As transformers' eager functions write it: all rows, and what is padding hidden."""
    seen = rows_of(K_SEGMENTS, B * LK).view(B, 1, 1, LK)
    asks = rows_of(Q_SEGMENTS, B * LQ).view(B, 1, LQ, 1) & seen.any(-1, keepdim=True)
    k, v = (x.repeat_interleave(H // HKV, 1) for x in (k, v))
    q, k, v = (x.unflatten(0, (B, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT * D**-0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = (scores + bias).masked_fill(~seen, torch.finfo(q.dtype).min).softmax(-1) * asks
    return (weights @ v).transpose(1, 2).flatten(0, 1)


def run(backend: str, tensors: dict[str, Tensor], **more) -> Tensor:
    with use_backend(masked_attention=backend):
        return masked_attention(
            tensors["q"], tensors["k"], tensors["v"], Q_SEGMENTS, K_SEGMENTS, bias=tensors["bias"], **more
        )


def with_gradients(out: Tensor, tensors: dict[str, Tensor]) -> list[Tensor]:
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out, *torch.autograd.grad(out, list(tensors.values()), g.to(out.dtype))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bias_and_cap_are_what_plain_torch_makes_of_them(backend, shape, softcap):
    tensors = draw(shape)
    ours = with_gradients(run(backend, tensors, softcap=softcap), tensors)
    theirs = with_gradients(plain(**tensors, softcap=softcap), tensors)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert ours[-1].shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_and_cap_are_as_exact_as_plain_torch(backend, dtype):
    """The gradient of a shared bias, a sum over patients, too: error against float64 at most twice that of
    plain torch, plus one rounding of the largest term."""
    rounded = draw(SHAPES[1], dtype)
    double = {name: x.detach().double().requires_grad_() for name, x in rounded.items()}
    exact = with_gradients(plain(**double, softcap=0.7), double)
    theirs = with_gradients(plain(**rounded, softcap=0.7), rounded)
    ours = with_gradients(run(backend, rounded, softcap=0.7), rounded)
    for found, other, value in zip(ours, theirs, exact, strict=True):
        assert found.dtype == dtype
        least = torch.finfo(dtype).eps * value.abs().max()
        assert (found - value).abs().max() <= 2 * (other - value).abs().max() + least


@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_cap_and_affinity_add_up(backend):
    """The cap is on q k alone; affinity and bias are added to what it leaves."""
    tensors = draw()
    affinity = torch.randn(H, 1, 2, dtype=torch.float64)
    of_key = affinity[:, :, [0, 0, 0, 1, 1, 1, 1]]  # [H, 1, LK]
    moved = {**tensors, "bias": tensors["bias"] + of_key}
    found = run(backend, tensors, softcap=0.7, affinity=affinity)
    torch.testing.assert_close(found, plain(**moved, softcap=0.7), rtol=1e-12, atol=1e-12)
    with use_backend(masked_attention=backend):
        args = tensors["q"], tensors["k"], tensors["v"], Q_SEGMENTS, K_SEGMENTS
        affinity.requires_grad_()
        out = masked_attention(*args, affinity=affinity, softcap=0.7)
        (found,) = torch.autograd.grad(out.square().sum(), affinity)
    with use_backend(masked_attention="definition"):
        out = masked_attention(*args, affinity=affinity, softcap=0.7)
        torch.testing.assert_close(found, torch.autograd.grad(out.square().sum(), affinity)[0])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_ragged_batch_is_the_definitions(data):
    patients, Lq, Lk, M = (data.draw(st.integers(1, n)) for n in (4, 4, 5, 3))
    heads = data.draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    lengths = [[data.draw(st.integers(0, Lk)) for _ in range(M)] for _ in range(patients)]
    k_segments = segments_from_padded(torch.tensor(lengths), [i * Lk for i in range(M + 1)])
    q_segments = segments_from_padded(
        torch.tensor([[data.draw(st.integers(0, Lq))] for _ in range(patients)]), [0, Lq]
    )
    whole = patients, heads[0], Lq, M * Lk
    shape = [n if data.draw(st.booleans()) else 1 for n in whole]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q, k, v, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in (
            (patients * Lq, heads[0], 3), *[(patients * M * Lk, heads[1], 3)] * 2, shape,
        )
    )  # fmt: skip
    dropout = {"dropout_p": 0.4, "key": philox_key(3)} if data.draw(st.booleans()) else {}
    softcap = data.draw(st.sampled_from([None, 0.5]))
    found = []
    for backend in BACKENDS:
        with use_backend(masked_attention=backend):
            out, lse = masked_attention_lse(
                q, k, v, q_segments, k_segments, bias=bias, softcap=softcap, **dropout
            )
        found.append([out, lse.detach(), *torch.autograd.grad(out.square().sum(), (q, k, v, bias))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_the_scores_are_held_a_few_patients_at_a_time(monkeypatch):
    tensors = draw()
    whole = with_gradients(run("torch", tensors), tensors)
    monkeypatch.setattr(torch_biased, "BLOCK", 1)
    for found, expected in zip(with_gradients(run("torch", tensors), tensors), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_absent_memory_is_never_read():
    """Bit for bit: rows outside the segments, their bias and the gradient that comes in may be NaN."""
    q_there, k_there = rows_of(Q_SEGMENTS, B * LQ), rows_of(K_SEGMENTS, B * LK)
    pairs = q_there.view(B, 1, LQ, 1) & k_there.view(B, 1, 1, LK)
    clean, bad = draw(), draw()
    with torch.no_grad():
        bad["q"][~q_there] = torch.nan
        bad["k"][~k_there] = torch.nan
        bad["v"][~k_there] = torch.nan
        bad["bias"].masked_fill_(~pairs, torch.nan)
    g = torch.randn(B * LQ, H, D, dtype=torch.float64)
    g_bad = g.masked_fill(~q_there[:, None, None], torch.nan)
    g_bad.view(B, LQ, H, D)[2] = torch.nan  # this patient has no key
    outs = [run("torch", tensors) for tensors in (clean, bad)]
    assert torch.equal(*outs)
    grads = [
        torch.autograd.grad(out, list(tensors.values()), grad)
        for out, tensors, grad in zip(outs, (clean, bad), (g, g_bad), strict=True)
    ]
    assert all(map(torch.equal, *grads))
    assert all((x == 0).all() for x in (grads[0][3][3], grads[0][3][2], outs[0][~q_there]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hide", [-torch.inf, torch.finfo(torch.float64).min])
def test_a_row_whose_keys_are_all_hidden_reads_nothing(backend, hide):
    tensors = draw()
    with torch.no_grad():
        tensors["bias"][0, 1, 2] = hide  # every key, for one head
        tensors["bias"][0, 0, 0, 1:] = hide  # all but one
    args = tensors["q"], tensors["k"], tensors["v"], Q_SEGMENTS, K_SEGMENTS
    with use_backend(masked_attention=backend):
        out, lse = masked_attention_lse(*args, bias=tensors["bias"])
    assert (out[2, 1] == 0).all()
    assert lse[2, 1] == NOTHING
    torch.testing.assert_close(out[0, 0], tensors["v"][0, 0])
    grads = torch.autograd.grad(out.square().sum(), list(tensors.values()))
    assert all(torch.isfinite(x).all() for x in grads)
    assert (grads[3][0, 1, 2] == 0).all()
    assert (grads[0][2, 1] == 0).all()


def test_the_operators_pass_opcheck():
    q, k, v, bias = (x.detach().float() for x in draw(SHAPES[1]).values())
    affinity = torch.randn(H, 1, 2)
    plain_args = q, k, v, Q_SEGMENTS, K_SEGMENTS, affinity, None
    for args in (
        (*plain_args, 0.5, False, 0.0, bias, 0.7),
        (q, k, v, Q_SEGMENTS, K_SEGMENTS, None, philox_key(1), 0.5, False, 0.3, None, 0.7),
    ):
        torch.library.opcheck(torch_biased.forward_op, args)
        out, lse = torch_biased.forward_op(*args)
        torch.library.opcheck(torch_biased.backward_op, (torch.randn_like(out), out, lse, *args))


def test_it_compiles_whole_exports_and_has_a_functional_gradient():
    tensors = draw(SHAPES[1], torch.float32)

    def call(q, k, v, bias):
        return masked_attention(q, k, v, Q_SEGMENTS, K_SEGMENTS, bias=bias, softcap=0.7)

    expected = with_gradients(call(**tensors), tensors)
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for found, same in zip(with_gradients(compiled(**tensors), tensors), expected, strict=True):
        assert torch.equal(found, same)

    class Module(torch.nn.Module):
        def forward(self, tensors: dict[str, Tensor]) -> Tensor:
            return call(**tensors)

    detached = {name: x.detach() for name, x in tensors.items()}
    program = torch.export.export(Module(), (detached,))
    assert torch.equal(program.module()(detached), expected[0])
    found = torch.func.grad(lambda bias: call(**{**detached, "bias": bias}).sum())(detached["bias"])
    (same,) = torch.autograd.grad(call(**tensors).sum(), tensors["bias"])
    assert torch.equal(found, same)
    once = torch.autograd.grad(call(**tensors).sum(), tensors["bias"], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiated twice"):
        once.square().sum().backward()


def test_a_backend_without_bias_says_so():
    q, k, v, bias = (x.detach().float() for x in draw().values())
    args = q, k, v, Q_SEGMENTS, K_SEGMENTS
    explained = explain("masked_attention", *args, bias=bias, softcap=2.0)
    assert explained.chosen == "torch"
    assert explained.declined["native"] == [
        "a bias for each query and key, which the kernels do not add",
        "a softcap, which the kernels do not apply",
    ]
    for name in ("native", "triton"):
        with (
            use_backend(masked_attention=name),
            pytest.raises(BackendError, match=f"{name}' cannot run: .*a bias for each query and key"),
        ):
            masked_attention(*args, bias=bias)
    assert explain("masked_attention", *args).chosen == "native"


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"bias": torch.zeros(B, H, LQ, LQ)}, ValueError,
         r"bias must be .* = \[4, 4, 5, 7\], or 1 on an axis .* got \[4, 4, 5, 5\]"),
        ({"bias": torch.zeros(LQ, LK)}, ValueError, r"got \[5, 7\]"),
        ({"bias": torch.zeros(1, 1, LQ, LK).int()}, TypeError, "must be floating point, got torch.int32"),
        ({"bias": torch.zeros(1, 1, LQ, LK, device="meta")}, ValueError, "bias is on meta, expected cpu"),
        ({"softcap": 0.0}, ValueError, "softcap is 0.0, expected a number > 0"),
        ({"softcap": float("nan")}, ValueError, "softcap is nan"),
        ({"bias": torch.zeros(1), "q": torch.zeros(B * LQ + 1, H, D)}, ValueError,
         "q has 21 and k has 28 rows for 4 patients, expected as many for each"),
        ({"bias": torch.zeros(1, 1, 1, 1), "q_segments": Q_SEGMENTS.flip(0)}, ValueError,
         r"q_segments\[0, 0\] is \(start 15, length 0|q_segments\[1, 0\] is \(start 10, length 3\), "
         r"expected rows 5 to 10 of patient 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changed, error, message):
    q, k, v, _ = (x.detach().float() for x in draw().values())
    given = {"q": q, "k": k, "v": v, "q_segments": Q_SEGMENTS, "k_segments": K_SEGMENTS, **changed}
    with pytest.raises(error, match=f"^masked_attention: .*{message}"):
        masked_attention(**given)
