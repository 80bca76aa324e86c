from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from robustmdiff.nn import MaskedCrossModalAttention
from robustmdiff.nn.masked_attention import every_row
from robustmdiff.ops import register_flops, segments_from_padded

D, HEADS = 12, 3
#                         patient 0            patient 1 lacks one    patient 2 lacks both
SEGMENTS = torch.tensor([[[0, 4], [4, 3]], [[9, 0], [12, 5]], [[0, 0], [0, 0]]], dtype=torch.int32)
T = 20
ABSENT = torch.tensor([not (t < 7 or 12 <= t < 17) for t in range(T)])
QUERY_SEGMENTS = torch.tensor([[[0, 1], [1, 1]], [[2, 0], [3, 1]], [[4, 0], [5, 0]]], dtype=torch.int32)


def layer(**settings) -> MaskedCrossModalAttention:
    torch.manual_seed(0)
    made = MaskedCrossModalAttention(D, HEADS, **settings).double()
    if made.affinity is not None:
        torch.nn.init.normal_(made.affinity)
    return made


def tokens(rows: int = T) -> torch.Tensor:
    return torch.randn(rows, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def twin(module, x, segments, x_q, q_segments):
    """The same layer with torch's own attention, a patient at a time."""
    out = torch.zeros(len(x_q), D, dtype=x.dtype)
    split = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(0, 1)  # noqa: E731
    for patient_q, patient_k in zip(q_segments.tolist(), segments.tolist(), strict=True):
        keys = [t for start, n in patient_k for t in range(start, start + n)]
        of_key = [j for j, (_, n) in enumerate(patient_k) for _ in range(n)]
        for i, (start, n) in enumerate(patient_q):
            see = [t for t, j in zip(keys, of_key, strict=True) if not (module.exclude_own and i == j)]
            mods = [j for j in of_key if not (module.exclude_own and i == j)]
            if not see or not n:
                continue
            bias = None if module.affinity is None else module.affinity[:, i, mods][:, None].expand(-1, n, -1)
            q, k, v = (
                split(module.W_q(x_q[start : start + n])),
                split(module.W_k(x[see])),
                split(module.W_v(x[see])),
            )
            read = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], bias)[0]
            out = out.index_copy(
                0, torch.arange(start, start + n), module.W_o(read.transpose(0, 1).flatten(1))
            )
    return out


@pytest.mark.parametrize(
    "settings", [{}, {"affinity": True, "modalities": 2}, {"exclude_own": True}], ids=str
)
@pytest.mark.parametrize("own", [True, False], ids=["tokens-read-tokens", "queries-read-tokens"])
def test_the_layer_is_torchs_attention_patient_by_patient(settings, own):
    module, x = layer(**settings), tokens()
    if own:
        ours, theirs = module(x, SEGMENTS), twin(module, x, SEGMENTS, x, SEGMENTS)
    else:
        queries = tokens(6)
        ours = module(x, SEGMENTS, queries, QUERY_SEGMENTS)
        theirs = twin(module, x, SEGMENTS, queries, QUERY_SEGMENTS)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(ours)
    for name, parameter in module.named_parameters():
        gradients = [
            torch.autograd.grad((y * weight).sum(), parameter, retain_graph=True)[0] for y in (ours, theirs)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11, msg=name)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("settings", [{}, {"affinity": True, "modalities": 2, "exclude_own": True}], ids=str)
def test_absent_tokens_never_reach_a_weight(settings, compiled):
    module = layer(**settings).float()
    run = torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module
    found = []
    for poison in (0.0, torch.nan):
        x, queries = tokens().float(), tokens(6).float()
        x[ABSENT], queries[[2, 4, 5]] = poison, poison
        x.requires_grad_()
        module.zero_grad()
        out = run(x, SEGMENTS, queries, QUERY_SEGMENTS)
        (out * torch.arange(D)).sum().backward()
        found.append([out.detach(), x.grad, *(p.grad for p in module.parameters())])
    for clean, poisoned in zip(*found, strict=True):
        assert torch.equal(clean, poisoned)
    assert (found[0][1][ABSENT] == 0).all()


def test_a_patient_with_nothing_reads_zero():
    out = layer()(
        tokens(), SEGMENTS, tokens(6), torch.tensor([[[0, 2]], [[2, 2]], [[4, 2]]], dtype=torch.int32)
    )
    assert (out[:4] != 0).all()
    assert (out[4:] == 0).all()


def test_absent_tokens_are_not_paid_for():
    module, nothing_hidden = layer(), torch.tensor([[[0, 4], [4, 3]], [[7, 8], [15, 5]]], dtype=torch.int32)
    half_hidden = nothing_hidden.clone()
    half_hidden[:, 1, 1] = 0
    counts = []
    for segments in (nothing_hidden, half_hidden):
        register_flops()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(tokens(), segments)
        counts.append(counter.get_flop_counts()["Global"])
    full, half = ({str(op): n for op, n in count.items()} for count in counts)
    projections = [name for name in full if "mm" in name]
    assert projections
    assert sum(half[name] for name in projections) * 20 == sum(full[name] for name in projections) * 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MaskedCrossModalAttention(12, 5), "heads is 5, expected a divisor of d = 12"),
        (lambda: MaskedCrossModalAttention(12, 3, affinity=True), "modalities is None, expected a number"),
        (lambda: layer()(tokens(), SEGMENTS, tokens(6)), "got only queries"),
        (lambda: layer(modalities=3)(tokens(), SEGMENTS), "segments has 2 modalities, expected 3"),
        (lambda: layer()(tokens(11), SEGMENTS), r"segments\[1, 1\] is \(start 12, length 5\).* 11 rows"),
        (lambda: layer()(tokens(), SEGMENTS[0]), r"q_segments must be \[patients, modalities, 2\]"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("B", "L"), [(3, 4), (1, 1), (2, 0), (0, 5)])
def test_every_row_of_a_padded_tensor_without_padding(B, L):
    found = every_row(B, L, torch.device("cpu"))
    assert found.dtype == torch.int32
    assert torch.equal(found, segments_from_padded(torch.full((B, 1), L), [0, L]))
