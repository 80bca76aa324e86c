from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.kernels import masked_attention as kernels
from robustmdiff.ops import masked_attention, philox_key
from robustmdiff.ops.masked_attention import masked_attention_lse
from robustmdiff.ops.masked_attention.arguments import Arguments
from robustmdiff.testing import draw
from robustmdiff.testing.cases.masked_attention import masked_case

LONG = torch.tensor([[[0, 37], [40, 3]], [[43, 0], [43, 20]]], dtype=torch.int32)  # tiles hold 16 rows


def outputs(backend: str, tensors: dict[str, Tensor], **settings) -> list[Tensor]:
    with use_backend(masked_attention=backend):
        out = masked_attention(**tensors, **settings)
    g = draw(*out.shape, seed=9).to(out.dtype)
    return [out, *torch.autograd.grad(out, [x for x in tensors.values() if x.requires_grad], g)]


def drawn(H: int, Hkv: int, D: int, affinity: bool = False) -> dict[str, Tensor]:
    case = masked_case("", LONG, 63, H=H, Hkv=Hkv, D=D, affinity=affinity)
    return {**case.at(torch.float32), "q_segments": LONG, "k_segments": LONG}


@pytest.mark.parametrize("exclude_own", [False, True])
def test_segments_of_several_tiles(exclude_own):
    """At most three times the error of torch; a gradient of the affinity is a sum over all tokens, whose
    rounding grows with the root of their number."""
    tensors = drawn(H=2, Hkv=1, D=40, affinity=True)
    exact_tensors = {
        name: x.detach().double().requires_grad_() if x.is_floating_point() else x
        for name, x in tensors.items()
    }
    found = [outputs(backend, tensors, exclude_own=exclude_own) for backend in ("triton", "torch")]
    exact = outputs("definition", exact_tensors, exclude_own=exclude_own)
    g, v = draw(*exact[0].shape, seed=9), exact_tensors["v"].detach()
    products = torch.einsum("qhd,khd->hqk", g, v.expand(-1, g.shape[1], -1)).abs().max()
    rounding = torch.finfo(torch.float32).eps * products * len(g) ** 0.5
    for ours, theirs, right in zip(*found, exact, strict=True):
        assert (ours - right).abs().max() <= 3 * ((theirs - right).abs().max() + rounding)


def test_an_affinity_of_minus_infinity_hides_a_modality():
    """The first of its keys' tiles as well as a later one."""
    for hidden in ([0], [1]):
        tensors = drawn(H=2, Hkv=1, D=16, affinity=True)
        with torch.no_grad():
            tensors["affinity"][:, 0, hidden] = -torch.inf
            tensors["affinity"][:, 1, 0] = -torch.inf
        for ours, theirs in zip(outputs("triton", tensors), outputs("torch", tensors), strict=True):
            assert torch.isfinite(ours).all()
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_dropout_is_the_definitions():
    tensors = drawn(H=2, Hkv=2, D=16)
    settings = {"dropout_p": 0.4, "key": philox_key(2**40 + 3, 5)}
    ours, theirs = (outputs(backend, tensors, **settings) for backend in ("triton", "torch"))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_a_key_may_be_a_column():
    tensors, key = drawn(H=1, Hkv=1, D=16), philox_key(3, 5)
    column = torch.stack([key, key + 1], 1)[:, 0]
    found, expected = (outputs("triton", tensors, dropout_p=0.4, key=k) for k in (column, key))
    assert all(map(torch.equal, found, expected))


def test_a_patient_does_not_depend_on_its_batch_mates():
    tensors = drawn(H=2, Hkv=2, D=16)
    together = outputs("triton", tensors)
    alone = {**tensors, "q_segments": LONG[1:], "k_segments": LONG[1:]}
    for x, y in zip(together, outputs("triton", alone), strict=True):
        assert torch.equal(x[43:], y[43:])


def test_rows_that_see_nothing_have_a_finite_log_sum_exp():
    tensors = drawn(H=2, Hkv=2, D=16)
    with use_backend(masked_attention="triton"):
        out, lse = masked_attention_lse(**tensors)
    assert (lse[37:40] == kernels.NOTHING).all()
    assert (out[37:40] == 0).all()
    assert (lse[:37] > -100).all()


def test_strides_do_not_matter():
    tensors = drawn(H=2, Hkv=2, D=16)
    turned = {
        name: x.detach().mT.contiguous().mT.requires_grad_() if x.requires_grad else x
        for name, x in tensors.items()
    }
    for x, y in zip(outputs("triton", tensors), outputs("triton", turned), strict=True):
        assert torch.equal(x, y)


def test_rows_beyond_2_to_31_elements():
    """Keys 2^31 elements apart; the memory between them is never touched, so it costs nothing."""
    D, apart = 16, 2**31
    far = torch.empty(apart + D, dtype=torch.float16).as_strided((2, 1, D), (apart, D, 1))
    near = draw(2, 1, D, seed=1).half()
    far.copy_(near)
    q, segments = draw(2, 1, D, seed=2).half(), torch.tensor([[[0, 2]]], dtype=torch.int32)
    settings = (segments, segments, None, None, 0.25, False, 0.0)
    found, expected = (kernels.forward(Arguments(q, x, x, *settings)) for x in (far, near))
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


def test_segments_that_leave_the_rows_are_cut_off():
    """What a GPU does; on the CPU the public function raises before it comes to this."""
    q, k, v = (draw(20, 1, 16, seed=s).float() for s in range(3))
    bad = torch.tensor([[[0, 99], [-3, 5]]], dtype=torch.int32)
    good = torch.tensor([[[0, 20], [0, 0]]], dtype=torch.int32)
    settings = (None, None, 0.25, False, 0.0)
    expected = kernels.forward(Arguments(q, k, v, good, good, *settings))
    for x, y in zip(kernels.forward(Arguments(q, k, v, bad, bad, *settings)), expected, strict=True):
        assert torch.equal(x, y)
