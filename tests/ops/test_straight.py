"""The short way of a call to the native operator: taken where nothing is special, and giving the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import profile

from robustmdiff import use_backend
from robustmdiff.ops import ddpm_noise, ddpm_step, knowledge_attention, philox_key
from robustmdiff.ops.dispatch import Op, straight
from robustmdiff.ops.triton_support import INTERPRETED
from tests.ops.cases import DEVICE
from tests.ops.test_contracts import grad_like, gradients

pytestmark = pytest.mark.skipif(DEVICE != "cpu" or INTERPRETED, reason="calls on the CPU go straight")


@pytest.fixture
def no_ordinary_way(monkeypatch):
    """It would fail."""
    return lambda: monkeypatch.setattr(Op, "select", None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_an_attention_goes_straight_with_the_same_bits(case, dtype, no_ordinary_way):
    """Absent memory, poisoned, is not read there either."""
    tensors, g = case.at(dtype), grad_like(case, dtype)
    with use_backend(**{case.op: "native"}):
        expected, expected_grads = gradients(case.run, tensors, g)
    poisoned = {name: x.detach().clone() for name, x in tensors.items()}
    for name in poisoned.keys() & case.absent.keys() - {"log_prior"}:
        poisoned[name][case.absent[name]] = torch.nan
    g[case.silent] = torch.nan
    no_ordinary_way()
    out, grads = gradients(case.run, {name: x.requires_grad_() for name, x in poisoned.items()}, g)
    assert torch.equal(out, expected)
    assert all(torch.equal(grads[name], expected_grads[name]) for name in grads)
    with torch.no_grad():
        assert torch.equal(case.run(**poisoned), expected)


def test_strided_tensors_go_straight(no_ordinary_way):
    q, concepts = torch.randn(5, 4, 3), torch.randn(4, 7)
    no_ordinary_way()
    found = knowledge_attention(q.mT, concepts.T[::2], scale=0.5)
    assert torch.equal(found, knowledge_attention(q.mT.contiguous(), concepts.T[::2].clone(), scale=0.5))


SETTINGS = {
    "plain": {},
    "guided": {"uncond": torch.full((3, 4), 0.5), "guidance": 2.0, "clip": 1.0},
    "learned": {
        "variance_output": torch.zeros(3, 4),
        "variance": "learned_range",
        "prediction": "v_prediction",
    },
    "rows": {"row_ids": torch.tensor([7, 3, 5])},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_goes_straight_with_the_same_bits(name, no_ordinary_way):
    settings = {"key": philox_key(3), **SETTINGS[name]}
    table, step = torch.rand(5, 8) + 0.1, torch.tensor([4, 0, 2])
    x, output = torch.randn(3, 4).requires_grad_(), torch.randn(3, 4)

    def run() -> list[Tensor]:
        out = ddpm_step(output, x, step, table, **settings)
        noised = ddpm_noise(x, step, table, key=settings["key"], row_ids=settings.get("row_ids"))
        return [out, noised, *torch.autograd.grad(out.sum() + noised.sum(), x)]

    with use_backend(ddpm_step="native", ddpm_noise="native"):
        expected = run()
    no_ordinary_way()
    assert all(map(torch.equal, run(), expected))
    with torch.no_grad():
        out = torch.empty(3, 4)
        assert ddpm_step(output, x, step, table, **settings, out=out) is out
        assert torch.equal(out, expected[0])


class Special(Tensor):
    pass


def test_what_is_special_goes_the_ordinary_way():
    x, found = torch.zeros(2), []

    def look(x: Tensor) -> Tensor:
        found.append(straight(x))
        return x.sum()

    look(x)
    assert found.pop()
    torch.func.grad(look)(x)
    torch.vmap(look)(x[None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        look(x)
    with use_backend(knowledge_attention="torch"):
        look(x)
    with FakeTensorMode():
        look(torch.zeros(2))
    for special in (x.double(), x.to("meta"), x.as_subclass(Special)):
        look(special)
    assert found == [False] * 8


def test_the_profiler_sees_the_operator():
    q, concepts = torch.randn(5, 3, 4), torch.randn(7, 4)
    with profile() as seen:
        knowledge_attention(q, concepts, scale=0.5)
    assert "robustmdiff::knowledge_attention_fwd" in {event.name for event in seen.events()}


def test_an_operator_refuses_tensors_of_several_devices():
    """Where one is on the meta device, torch takes the shape rule, which would compute nothing."""
    q, concepts = torch.randn(5, 3, 4), torch.randn(7, 4, device="meta")
    with pytest.raises(ValueError, match=r"tensors are on .*, expected one device"):
        torch.ops.robustmdiff.knowledge_attention_fwd(q, concepts, None, 0.5)
