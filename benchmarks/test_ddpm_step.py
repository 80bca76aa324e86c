"""One guided DDPM step with its noise: three tensors in, one out; four in where the noise is given.

Between two steps of a real sampler a denoiser runs and empties the cache, so every call takes the
next of several sets of tensors; those of the images are more than the caches hold, vectors are not.
"""

from __future__ import annotations

import pytest

from benchmarks.limits import bandwidth, normals
from benchmarks.peers.ddpm_step import MAKERS, WITH_NOISE, check, workload


@pytest.fixture(scope="session")
def tiny(device, dtype):
    return workload((2, 8), device, dtype)


@pytest.mark.parametrize("shape", [(8, 3, 256, 256), (64, 512)], ids=lambda shape: "x".join(map(str, shape)))
def test_ddpm_step(bench, tiny, device, dtype, shape):
    given = workload(shape, device, dtype)
    limits = [*bandwidth(given.tensors["x"]), *normals(device)]
    bench(given, MAKERS, tiny, limits, share=0.7, training=False, check=check(given))


def test_with_given_noise(bench, device, dtype):
    given, tiny = (workload(shape, device, dtype, drawn=False) for shape in ((8, 3, 256, 256), (2, 8)))
    bench(given, WITH_NOISE, tiny, bandwidth(given.tensors["x"]), share=0.3, training=False)


@pytest.mark.parametrize("batch", [1, 4, 16, 64])
def test_time_follows_the_batch(bench, tiny, device, dtype, batch):
    given = workload((batch, 4, 64, 64), device, dtype)
    bench(
        given,
        {name: make for name, make in MAKERS.items() if name != "torch.compile"},
        tiny,
        [*bandwidth(given.tensors["x"]), *normals(device)],
        share=0.15,
        training=False,
        memory=False,
        check=check(given),
        curve="batch",
        x=batch,
    )
