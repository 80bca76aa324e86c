"""masked_attention: 16 patients, 5 modalities of 911 tokens together, 8 heads of 64.

Three pictures of 197 tokens, a text of 256 and a table of 64.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.limits import bandwidth, matmul
from benchmarks.peers.masked_attention import MAKERS, Patients, patients

SIZES = (197, 197, 197, 256, 64)
PATIENTS, H, D = 16, 8, 64
NOT_IN_THE_PLOT = ("torch eager", "torch.compile")


def some_present(fraction: float) -> torch.Tensor:
    """Lengths [B, M] with this fraction of all modalities of all patients present."""
    places = PATIENTS * len(SIZES)
    order = torch.randperm(places, generator=torch.Generator().manual_seed(0))
    present = (order < round(fraction * places)).view(PATIENTS, len(SIZES))
    return present * torch.tensor(SIZES)


@pytest.fixture(scope="session")
def tiny(device, dtype) -> Patients:
    return patients("tiny", torch.tensor([[2, 3], [0, 3], [2, 0]]), (2, 3), 2, 16, device, dtype)


def limits_of(workload: Patients, device: str, dtype: torch.dtype):
    return [*matmul(device, dtype), *bandwidth(workload.tensors["q"])]


@pytest.mark.parametrize("fraction", [0.5, 1.0], ids=["half-present", "nothing-missing"])
def test_masked_attention(bench, tiny, device, dtype, fraction):
    name = "half present" if fraction < 1 else "nothing missing"
    workload = patients(name, some_present(fraction), SIZES, H, D, device, dtype)
    bench(workload, MAKERS, tiny, limits_of(workload, device, dtype))


@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6, 0.8, 1.0])
def test_time_follows_what_is_present(bench, tiny, device, dtype, fraction):
    workload = patients(f"{fraction:.0%} present", some_present(fraction), SIZES, H, D, device, dtype)
    makers = {name: make for name, make in MAKERS.items() if name not in NOT_IN_THE_PLOT}
    bench(
        workload,
        makers,
        tiny,
        limits_of(workload, device, dtype),
        share=0.2,
        training=False,
        memory=False,
        curve="fraction present",
        x=fraction,
    )


@pytest.mark.parametrize("tokens", [4096])
def test_long_sequences(bench, tiny, device, dtype, tokens):
    """4 patients with nothing missing, 16 heads of 128: what dense attention kernels are built for."""
    if device == "cpu":
        pytest.skip("a workload for a GPU")
    workload = patients(f"4 x {tokens} tokens", torch.full((4, 1), tokens), (tokens,), 16, 128, device, dtype)
    bench(workload, MAKERS, tiny, limits_of(workload, device, dtype))
