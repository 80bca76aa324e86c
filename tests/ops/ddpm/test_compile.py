"""torch.compile, torch.export and opcheck."""

from __future__ import annotations

import pytest
import torch

from robustmdiff import use_backend
from robustmdiff.ops import ddpm_noise, ddpm_step, philox_key
from robustmdiff.ops.ddpm import native

SHAPES = [(3, 8), (5, 8), (1, 8), (3, 1), (0, 8), (4, 13)]


def values(shape):
    generator = torch.Generator().manual_seed(sum(shape))
    output, x = (torch.randn(shape, generator=generator) for _ in range(2))
    return output, x, torch.tensor([0, 9, 4, 7, 8])[: shape[0]]


TORCH = pytest.param("torch", None, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("engine", "dynamic"), [("native", None), ("native", True), TORCH], indirect=["engine"]
)
def test_compiles_whole_with_any_shape(engine, table, dynamic):
    key = philox_key(2, 1)

    def run(output, x, step):
        x_t = ddpm_noise(x, step, table, key=key)
        return ddpm_step(output, x_t, step, table, uncond=x, guidance=2.0, clip=1.0, key=key)

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with use_backend(ddpm_step=engine, ddpm_noise=engine):
        for shape in SHAPES if engine == "native" else SHAPES[::2]:
            torch.testing.assert_close(compiled(*values(shape)), run(*values(shape)), rtol=1e-6, atol=1e-6)


def test_compiled_gradients(engine, table):
    key = philox_key(2, 1)

    def run(output, x, step):
        return ddpm_step(output, x, step, table, clip=1.0, key=key)

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    output, x, step = values((3, 8))
    found = []
    with use_backend(ddpm_step=engine):
        for function in (run, compiled):
            leaves = output.clone().requires_grad_(), x.clone().requires_grad_()
            found.append(torch.autograd.grad(function(*leaves, step).square().sum(), leaves))
    for eager, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, eager)


@pytest.mark.slow  # inductor compiles C++
def test_inductor_takes_the_native_op(table):
    output, x, step = values((3, 8))
    key = philox_key(0)

    def run(output, x):
        return ddpm_step(output.sin(), x, step, table, key=key) * 2

    torch.compiler.reset()
    with use_backend(ddpm_step="native"):
        torch.testing.assert_close(torch.compile(run, fullgraph=True)(output, x), run(output, x))


def test_exports_with_dynamic_batch(engine, table):
    class Sampler(torch.nn.Module):
        def forward(self, output, x, step, key):
            return ddpm_step(output, x, step, table, prediction="v_prediction", key=key)

    batch = torch.export.Dim("batch")
    with use_backend(ddpm_step=engine):
        args = (*values((3, 8)), philox_key(1))
        shapes = ({0: batch}, {0: batch}, {0: batch}, None)
        program = torch.export.export(Sampler(), args, dynamic_shapes=shapes)
        other = (*values((5, 8)), philox_key(4))
        torch.testing.assert_close(program.module()(*other), Sampler()(*other), rtol=1e-6, atol=1e-6)
    if engine == "native":
        assert "robustmdiff.ddpm_step.default" in str(program.graph)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(table, dtype):
    output, x, step = values((3, 8))
    output, x, key = output.to(dtype), x.to(dtype), philox_key(1)
    g, rows = torch.ones(3), torch.tensor([4, 5, 6])
    step_args = (x, output, step, table, x, g, output, key, rows, None, 1.0, 1.0, 0, False)
    noise_args = (x, step, table, None, None, output)
    torch.library.opcheck(native.operators.step, step_args)
    torch.library.opcheck(native.operators.step_out, (torch.empty_like(x), *step_args))
    torch.library.opcheck(native.operators.noise, noise_args)
    torch.library.opcheck(native.operators.noise_out, (torch.empty_like(x), *noise_args))
    torch.library.opcheck(native.operators.normal, (x, step, key, rows))


def test_autocast_leaves_the_step_in_the_dtype_of_its_sample(engine, table):
    output, x, step = values((3, 8))
    key = philox_key(0)
    with use_backend(ddpm_step=engine):
        plain = ddpm_step(output, x, step, table, key=key)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ddpm_step(output, x, step, table, key=key), plain)
