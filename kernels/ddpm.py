"""ddpm_step, ddpm_noise and their normals in Triton: one launch, each tensor touched once.

A program owns a stretch of one row. Its elements come four to a Philox counter; log, sin, cos and exp are
the polynomials of csrc/include/rmd/math.h, as the hardware's approximations are too coarse for normals that
agree to 1e-6. The formulas are in docs/ops/ddpm_step.md.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from robustmdiff.kernels.launch import INTERPRETED, OPTIONS, checking, of_architecture, on_device_of

if TYPE_CHECKING:
    from robustmdiff.ops.ddpm.arguments import Noise, Step

# Columns of the coefficient table (robustmdiff/ops/ddpm/table.py).
SQRT_ALPHA_BAR: tl.constexpr = tl.constexpr(0)
SQRT_BETA_BAR: tl.constexpr = tl.constexpr(1)
WEIGHT_X0: tl.constexpr = tl.constexpr(2)
WEIGHT_XT: tl.constexpr = tl.constexpr(3)
SIGMA: tl.constexpr = tl.constexpr(4)
LOG_VARIANCE_MIN: tl.constexpr = tl.constexpr(5)
LOG_VARIANCE_MAX: tl.constexpr = tl.constexpr(6)
COLUMNS: tl.constexpr = tl.constexpr(8)

# Predictions (robustmdiff/ops/ddpm/arguments.py).
EPSILON: tl.constexpr = tl.constexpr(0)
SAMPLE: tl.constexpr = tl.constexpr(1)

NOISING: tl.constexpr = tl.constexpr(2**31)  # noising to step t draws at t + 2^31 (robustmdiff/ops/philox.py)


@triton.jit
def _log(x):
    """Natural logarithm of a positive normal float (Cephes)."""
    shifted = x.to(tl.int32, bitcast=True) - 0x3F3504F3  # m in [sqrt(1/2), sqrt(2)): exact near 1
    exponent = (shifted >> 23).to(tl.float32)
    m = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1
    z = m * m
    p = tl.fma(m, 7.0376836292e-2, -1.1514610310e-1)
    p = tl.fma(p, m, 1.1676998740e-1)
    p = tl.fma(p, m, -1.2420140846e-1)
    p = tl.fma(p, m, 1.4249322787e-1)
    p = tl.fma(p, m, -1.6668057665e-1)
    p = tl.fma(p, m, 2.0000714765e-1)
    p = tl.fma(p, m, -2.4999993993e-1)
    p = tl.fma(p, m, 3.3333331174e-1)
    p = tl.fma(exponent, -2.12194440e-4, p * m * z) - 0.5 * z
    return tl.fma(exponent, 0.693359375, m + p)


@triton.jit
def _sin_cos(turn):
    """sin and cos of pi int32(turn) / 2^31; the quarter turn is taken off in integers, exactly (Cephes)."""
    rounded = turn + 0x20000000  # its two top bits count the quarter turns
    rest = (rounded & 0x3FFFFFFF).to(tl.int32, bitcast=True) - 0x20000000
    x = rest.to(tl.float32) * 1.46291807926716e-9  # pi / 2^31
    z = x * x
    s = tl.fma(z, -1.9515295891e-4, 8.3321608736e-3)
    s = tl.fma(tl.fma(s, z, -1.6666654611e-1), z * x, x)
    c = tl.fma(z, 2.443315711809948e-5, -1.388731625493765e-3)
    c = tl.fma(tl.fma(c, z, 4.166664568298827e-2), z * z, 1 - 0.5 * z)
    odd = (rounded & 0x40000000) != 0
    sine, cosine = tl.where(odd, c, s), tl.where(odd, s, c)
    sine = tl.where((rounded & 0x80000000) != 0, -sine, sine)
    cosine = tl.where(((rounded + 0x40000000) & 0x80000000) != 0, -cosine, cosine)
    return sine, cosine


@triton.jit
def _exp(x):
    """exp(x), x clamped to where the answer is a normal float (Cephes)."""
    x = tl.minimum(tl.maximum(x, -87.0), 88.0)
    n = tl.floor(tl.fma(x, 1.44269504088896341, 0.5))
    r = tl.fma(n, 2.12194440e-4, tl.fma(n, -0.693359375, x))
    p = tl.fma(r, 1.9875691500e-4, 1.3981999507e-3)
    p = tl.fma(p, r, 8.3334519073e-3)
    p = tl.fma(p, r, 4.1665795894e-2)
    p = tl.fma(p, r, 1.6666665459e-1)
    p = tl.fma(p, r, 5.0000001201e-1)
    p = tl.fma(p, r * r, r) + 1
    return (p.to(tl.int32, bitcast=True) + (n.to(tl.int32) << 23)).to(tl.float32, bitcast=True)


@triton.jit
def _box_muller(w0, w1):
    u = ((w0 >> 8) + 1).to(tl.float32) * 5.9604644775390625e-8  # 2^-24
    radius = tl.sqrt_rn(-2.0 * _log(u))
    sine, cosine = _sin_cos(w1)
    return radius * cosine, radius * sine


@triton.jit
def words(key, row_ids, row, step, group):
    """The four words of each group of four elements. group: uint32 [groups]."""
    seed = tl.load(key).to(tl.uint64, bitcast=True)
    offset = tl.load(key + 1).to(tl.uint32)
    identity = row if row_ids is None else tl.load(row_ids + row)
    zero = tl.zeros_like(group)
    return tl.philox(seed, group, zero + identity.to(tl.uint32), zero + step.to(tl.uint32), zero + offset)


@triton.jit
def _normals(key, row_ids, row, step, begin, BLOCK: tl.constexpr):
    """Normals of elements begin .. begin + BLOCK - 1 of a row; begin is a multiple of 4."""
    group = (begin // 4).to(tl.uint32) + tl.arange(0, BLOCK // 4).to(tl.uint32)
    w0, w1, w2, w3 = words(key, row_ids, row, step, group)
    z0, z1 = _box_muller(w0, w1)
    z2, z3 = _box_muller(w2, w3)
    return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))


@triton.jit
def _stretch(row_size, BLOCK: tl.constexpr):
    """The row of this program and the first element of its stretch."""
    stretches = (row_size + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    return (program // stretches).to(tl.int64), (program % stretches).to(tl.int64) * BLOCK


@triton.jit
def _coefficients(table, steps, step, CHECK: tl.constexpr):
    if CHECK:
        tl.device_assert((step >= 0) & (step < steps), "ddpm: a step leaves the table")
    return table + tl.minimum(tl.maximum(step, 0), steps - 1) * COLUMNS


@triton.jit
def _step(
    out, sample, model_output, step_of_row, table, uncond, guidances, variance_output, key, row_ids, noise,
    guidance, clip, row_size, steps,
    PREDICTION: tl.constexpr, CLIPS: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr,
    CHECK: tl.constexpr,
):  # fmt: skip
    row, begin = _stretch(row_size, BLOCK)
    element = begin + tl.arange(0, BLOCK)
    there, at = element < row_size, row * row_size + element
    step = tl.load(step_of_row + row)
    c = _coefficients(table, steps, step, CHECK)

    output = tl.load(model_output + at, mask=there, other=0).to(tl.float32)
    if uncond is not None:
        unguided = tl.load(uncond + at, mask=there, other=0).to(tl.float32)
        strength = guidance if guidances is None else tl.load(guidances + row)
        output = tl.fma(tl.zeros_like(output) + strength, output - unguided, unguided)
    x_t = tl.load(sample + at, mask=there, other=0).to(tl.float32)
    a, b = tl.load(c + SQRT_ALPHA_BAR), tl.load(c + SQRT_BETA_BAR)
    if PREDICTION == EPSILON:
        x_0 = tl.div_rn(1.0, a) * (x_t - b * output)
    elif PREDICTION == SAMPLE:
        x_0 = output
    else:
        x_0 = a * x_t - b * output
    if CLIPS:
        x_0 = tl.where(x_0 > clip, clip, tl.where(x_0 < -clip, -clip, x_0))  # a NaN stays NaN
    x = tl.load(c + WEIGHT_X0) * x_0 + tl.load(c + WEIGHT_XT) * x_t

    sigma = tl.load(c + SIGMA)
    if sigma != 0:  # the last step reads no noise
        if noise is None:
            z = _normals(key, row_ids, row, step, begin, BLOCK)
        else:
            z = tl.load(noise + at, mask=there, other=0).to(tl.float32)
        if variance_output is None:
            x += sigma * z
        elif EXACT:
            x += _exp(0.5 * tl.load(variance_output + at, mask=there, other=0).to(tl.float32)) * z
        else:
            share = tl.load(variance_output + at, mask=there, other=0).to(tl.float32) * 0.5 + 0.5
            low, high = tl.load(c + LOG_VARIANCE_MIN), tl.load(c + LOG_VARIANCE_MAX)
            x += _exp(0.5 * (share * high + (1 - share) * low)) * z
    tl.store(out + at, x.to(out.dtype.element_ty), mask=there)


@triton.jit
def _noise(
    out, sample, step_of_row, table, key, row_ids, noise, row_size, steps,
    BLOCK: tl.constexpr, CHECK: tl.constexpr,
):  # fmt: skip
    row, begin = _stretch(row_size, BLOCK)
    element = begin + tl.arange(0, BLOCK)
    there, at = element < row_size, row * row_size + element
    step = tl.load(step_of_row + row)
    c = _coefficients(table, steps, step, CHECK)
    if noise is None:
        z = _normals(key, row_ids, row, step + NOISING, begin, BLOCK)
    else:
        z = tl.load(noise + at, mask=there, other=0).to(tl.float32)
    x = tl.load(sample + at, mask=there, other=0).to(tl.float32)
    x = tl.load(c + SQRT_ALPHA_BAR) * x + tl.load(c + SQRT_BETA_BAR) * z
    tl.store(out + at, x.to(out.dtype.element_ty), mask=there)


@triton.jit
def _normal(out, step_of_row, key, row_ids, row_size, BLOCK: tl.constexpr):
    row, begin = _stretch(row_size, BLOCK)
    element = begin + tl.arange(0, BLOCK)
    z = _normals(key, row_ids, row, tl.load(step_of_row + row), begin, BLOCK)
    tl.store(out + row * row_size + element, z.to(out.dtype.element_ty), mask=element < row_size)


class Config(NamedTuple):
    elements: int  # of a program, at most
    warps: int


# 8 elements a thread: two counters, one or two wide accesses. Not timed on a GPU yet, so every
# architecture has the same.
STRETCH = Config(1024, 4)
CONFIGS = {80: STRETCH, 90: STRETCH, 120: STRETCH, None: STRETCH}


def _launch(kernel: Any, out: Tensor, *arguments: Any, **constants: Any) -> None:
    """One program for each stretch of a row; where rows are shorter, the stretch is too."""
    rows, row_size = out.shape[0], out.shape[1:].numel()
    if rows * row_size == 0:
        return
    with on_device_of(out):
        config = STRETCH if INTERPRETED else of_architecture(CONFIGS)
        block = max(128, min(config.elements, triton.next_power_of_2(row_size)))
        kernel[(rows * triton.cdiv(row_size, block),)](
            out, *arguments, BLOCK=block, **constants,
            num_warps=max(1, config.warps * block // config.elements),
            debug=checking(), sanitize_overflow=False,  # Philox wraps on purpose
            **OPTIONS,
        )  # fmt: skip


def step(a: "Step") -> None:
    """x_{t-1} into a.out; contiguous tensors of one dtype."""
    _launch(
        _step, a.out, *a[:12], a.out.shape[1:].numel(), a.table.shape[0],
        PREDICTION=a.prediction, CLIPS=a.clip < float("inf"), EXACT=a.exact, CHECK=checking(),
    )  # fmt: skip


def noise(a: "Noise") -> None:
    """x_t into a.out."""
    _launch(_noise, a.out, *a[:-1], a.out.shape[1:].numel(), a.table.shape[0], CHECK=checking())


def normal(out: Tensor, step: Tensor, key: Tensor, row_ids: Tensor | None) -> None:
    """The noise that a key draws at these steps, into out."""
    _launch(_normal, out, step, key, row_ids, out.shape[1:].numel())
