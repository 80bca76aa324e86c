"""The DDPM ops on the device against float64: prediction, clip, guidance, variance and noise, in rows that
suit a wide access and rows that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.ops import ddpm_noise, ddpm_step, philox_key
from robustmdiff.ops.ddpm import definition
from robustmdiff.ops.dispatch import BackendError
from robustmdiff.ops.philox import NOISING, philox_normal
from tests.device.conftest import DEVICE, draw

TABLE = Schedule(1000, "linear", 10).table.to(DEVICE)
STEP = torch.tensor([0, 9, 4, 7], device=DEVICE)  # 9: the last, which takes no noise
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip": 0.8, "prediction": "v_prediction"},
    "guided": {"uncond": 9, "guidance": 3.5, "clip": 1.0},
    "guided by row": {"uncond": 9, "guidance": torch.tensor([0.5, 4.0, 1.0, -1.0], device=DEVICE)},
    "learned variance": {"variance_output": 8, "prediction": "sample"},
}
SHAPES = {"wide": (4, 3, 64), "odd": (4, 3, 7), "one": (4, 1), "misaligned": (4, 3, 64)}


@pytest.fixture(params=["native", "triton", "torch"])
def engine(request) -> str:
    return request.param


def tensor(shape: tuple[int, ...], seed: int, dtype: torch.dtype, misaligned: bool) -> Tensor:
    """Misaligned: contiguous from an address that is no multiple of 16 bytes."""
    x = draw(*shape, seed=seed).to(dtype)
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(shape) if misaligned else x


def run(op: str, engine: str, call, *arguments: Any, **settings: Any) -> Tensor:
    with use_backend(**{op: engine}):
        try:
            return call(*arguments, **settings)
        except BackendError as declined:
            pytest.skip(str(declined))


def within(ours: Tensor, plain: Tensor, exact: Tensor, drawn: bool) -> None:
    assert ours.dtype == plain.dtype
    budget = 2 * (plain.double() - exact).abs().max() + torch.finfo(plain.dtype).eps * exact.abs().max()
    assert (ours.double() - exact).abs().max() <= budget + 1e-6 * drawn


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("drawn", [True, False], ids=["key", "noise"])
@pytest.mark.parametrize("rows", SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
def test_step(engine, option, rows, drawn, dtype):
    shape, given = SHAPES[rows], dict(OPTIONS[option])
    x, output, noise = (tensor(shape, seed, dtype, rows == "misaligned") for seed in (1, 2, 3))
    for name in ("uncond", "variance_output"):
        if name in given:
            given[name] = tensor(shape, given[name], dtype, rows == "misaligned").clamp(-1, 1)
    exact_given = {name: x.double() if isinstance(x, Tensor) else x for name, x in given.items()}
    source = {"noise": noise}
    if drawn:
        key, ids = philox_key(2**40 + 3, 6, device=DEVICE), torch.tensor([7, 0, 2**32 - 1, 3], device=DEVICE)
        noise = philox_normal(key, STEP, ids, x[:1].numel()).reshape(shape)
        source = {"key": key, "row_ids": ids}
    exact = definition.ddpm_step(
        output.double(), x.double(), STEP, TABLE, noise=noise.double(), **exact_given
    )
    plain = definition.ddpm_step(output, x, STEP, TABLE, noise=noise.to(dtype), **given)
    variance = "learned_range" if "variance_output" in given else "fixed"
    ours = run("ddpm_step", engine, ddpm_step, output, x, STEP, TABLE, variance=variance, **given, **source)
    within(ours, plain, exact, drawn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", SHAPES)
def test_noise(engine, rows, dtype):
    x, key = tensor(SHAPES[rows], 1, dtype, rows == "misaligned"), philox_key(3, 2, device=DEVICE)
    noise = philox_normal(key, STEP + NOISING, None, x[:1].numel()).reshape(x.shape)
    exact = definition.ddpm_noise(x.double(), STEP, TABLE, noise=noise)
    plain = definition.ddpm_noise(x, STEP, TABLE, noise=noise.to(dtype))
    ours = run("ddpm_noise", engine, ddpm_noise, x, STEP, TABLE, key=key)
    within(ours, plain, exact, drawn=True)


def test_a_row_has_the_same_bits_alone_and_in_place(engine):
    """Neither its batch mates nor `out=` over the sample change a row that says which it is."""
    x, output = draw(4, 3, 33, seed=1), draw(4, 3, 33, seed=2)
    key, ids = philox_key(3, device=DEVICE), torch.arange(4, device=DEVICE)
    whole = run("ddpm_step", engine, ddpm_step, output, x, STEP, TABLE, key=key, row_ids=ids)
    alone = run(
        "ddpm_step", engine, ddpm_step, output[2:3], x[2:3], STEP[2:3], TABLE, key=key, row_ids=ids[2:3]
    )
    assert torch.equal(whole[2:3], alone)
    run("ddpm_step", engine, ddpm_step, output, x, STEP, TABLE, key=key, row_ids=ids, out=x)
    assert torch.equal(x, whole)
