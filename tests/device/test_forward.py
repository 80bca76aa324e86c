"""The contracts without a gradient, in 16 bits and at the widths that tensor cores and 16-byte accesses take.

tests/ops/test_contracts.py records gradients of heads of width 7, which a kernel with a forward pass only,
or with an access for wide rows, never sees.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.ops import masked_attention
from robustmdiff.ops.dispatch import BackendError
from robustmdiff.testing import Case
from robustmdiff.testing.cases.graph_attention import graph_case
from robustmdiff.testing.cases.knowledge_attention import knowledge_case
from robustmdiff.testing.cases.masked_attention import masked_case, segments
from tests.device.conftest import DEVICE

LENGTHS = [[70, 3, 130], [0, 64, 0], [0, 0, 0], [100, 0, 1], [0, 1, 17]]
RAGGED, TOKENS = segments(LENGTHS, [0, 100, 164, 300]), 5 * 300
ONE_ROW = torch.tensor([[[i, 1]] for i in range(5)], dtype=torch.int32)


def wide_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    # a row for a warp, one for a block, one that is split, and rows without edges
    target = torch.arange(5).repeat_interleave(torch.tensor([3, 0, 65, 1025, 2049]))
    source = torch.randint(30, target.shape, generator=generator)
    relation = torch.randint(5, target.shape, generator=generator).tolist()
    found = [
        *(masked_case(f"{D}", RAGGED, TOKENS, H=2, Hkv=2, D=D) for D in (8, 32, 40, 64, 96, 128, 200, 256)),
        masked_case("shared-heads", RAGGED, TOKENS, H=4, Hkv=2, D=64),
        masked_case("affinity", RAGGED, TOKENS, H=4, Hkv=1, D=64, affinity=True),
        masked_case("exclude-own", RAGGED, TOKENS, H=2, Hkv=2, D=64, exclude_own=True),
        masked_case(
            "affinity-exclude-own", RAGGED, TOKENS, H=2, Hkv=2, D=128, affinity=True, exclude_own=True
        ),
        masked_case("learned-queries", RAGGED, TOKENS, ONE_ROW, 5, H=2, Hkv=2, D=64),
        *(graph_case(f"{D}", 40, source, target, H=2, D=D) for D in (8, 64, 128, 200)),
        graph_case("relations", 40, source, target, relation, H=2, D=64),
        *(knowledge_case(f"{D}", 33, 2, D, 700, [0, 4, 699], scale=D**-0.5) for D in (32, 64, 128, 200)),
    ]
    return found if DEVICE == "cuda" else [case for case in found if case.name in ("64", "relations")]


CASES = wide_cases()


@pytest.fixture(params=CASES, ids=lambda case: f"{case.op}-{case.name}")
def case(request) -> Case:
    return request.param


@pytest.fixture(params=["native", "triton", "torch"])
def engine(request) -> str:
    return request.param


def run(case: Case, engine: str, tensors: dict[str, Tensor]) -> Tensor:
    with use_backend(**{case.op: engine}), torch.no_grad():
        try:
            return case.run(**tensors)
        except BackendError as declined:
            pytest.skip(str(declined))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_as_exact_as_plain_torch(case, engine, dtype):
    tensors = {name: x.detach() for name, x in case.at(dtype).items()}
    ours = run(case, engine, tensors)
    exact = case.plain(**{name: x.double() for name, x in tensors.items()})
    plain = case.plain(**tensors)
    largest = max(float(x.abs().max()) for x in tensors.values())
    budget = 2 * (float((plain.double() - exact).abs().max()) + torch.finfo(dtype).eps * largest)
    assert torch.isfinite(ours).all()
    assert float((ours.double() - exact).abs().max()) <= budget
    assert (ours[case.silent.to(DEVICE)] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_absent_memory_is_never_read(case, engine, dtype):
    clean = {name: x.detach() for name, x in case.at(dtype).items()}
    poisoned = {name: x.clone() for name, x in clean.items()}
    for name, rows in case.absent.items():
        if name != "log_prior":  # -inf there is what says that a concept is absent
            poisoned[name][rows.to(DEVICE)] = torch.nan
    assert torch.equal(run(case, engine, clean), run(case, engine, poisoned))


@pytest.mark.parametrize("exclude_own", [False, True])
def test_a_patient_alone_has_the_same_bits(engine, exclude_own):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(TOKENS, 2, 64, generator=generator).to(DEVICE, torch.bfloat16) for _ in range(3))
    settings = {"exclude_own": exclude_own}

    def attend(*arguments: Tensor) -> Tensor:
        with use_backend(masked_attention=engine), torch.no_grad():
            try:
                return masked_attention(*arguments, **settings)
            except BackendError as declined:
                pytest.skip(str(declined))

    whole = attend(q, k, v, RAGGED.to(DEVICE), RAGGED.to(DEVICE))
    for patient in (0, 3, 4):
        rows = slice(300 * patient, 300 * (patient + 1))
        own = RAGGED[patient : patient + 1].clone()
        own[..., 0] = (own[..., 0] - 300 * patient).clamp(min=0)
        own = own.to(DEVICE)
        assert torch.equal(attend(q[rows], k[rows], v[rows], own, own), whole[rows])
