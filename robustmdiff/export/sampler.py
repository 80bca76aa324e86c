"""The sampler of a second stage as an exported graph has it: one loop, or its evaluations one by one.

`ops.chain` is one call, and draws by itself. Here its recurrence is written out, of noise that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops import while_loop

from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.forecast.gaussian import GaussianForecast, Noise
from robustmdiff.ops.chain import Recurrence
from robustmdiff.ops.chain.definition import State, evaluated

Residual = Callable[[Any, Tensor, Tensor, Noise, Tensor], Tensor]  # as `FlowForecast.residual`


def unrolled(forecast: FlowForecast, x: Tensor, told: Tensor, noise: Noise, row_ids: Tensor) -> Tensor:
    state = State.before(x)
    for e in range(len(forecast.table)):
        state = _evaluated(forecast, itemgetter(e), state, told, noise, row_ids)
    return state.x


def loop(forecast: FlowForecast, x: Tensor, told: Tensor, noise: Noise, row_ids: Tensor) -> Tensor:
    def follow(e: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        def at(x: Tensor) -> Tensor:  # x[e] for an e that a graph does not know
            return x.index_select(0, e.reshape(1))[0]

        x, x_before, o_before = _evaluated(forecast, at, State(*state), told, noise, row_ids)
        return e + 1, x, x_before.clone(), o_before  # a loop gives nothing back that it was given

    first, end = torch.zeros((), dtype=torch.int64, device=x.device), len(forecast.table)
    _, x, _, _ = while_loop(lambda e, *state: e < end, follow, (first, *State.before(x)))
    return x


def _evaluated(
    forecast: FlowForecast,
    at: Callable[[Tensor], Tensor],
    state: State,
    told: Tensor,
    noise: Noise,
    row_ids: Tensor,
) -> State:
    """After one evaluation; `at` takes what is its own out of a tensor of all of them."""
    r = Recurrence(*at(forecast.table.to(told)))
    after = evaluated(state, r, at(forecast.time.to(told)), told, forecast.network.weights())
    if noise.steps is None:
        return after
    return after._replace(x=after.x + r.sigma * at(noise.steps)[row_ids])


SAMPLERS: Mapping[str, Residual] = {"loop": loop, "unrolled": unrolled}
FEW = 4  # evaluations: unrolled they are a little faster, and a file of more grows


def usual(forecast: GaussianForecast) -> str:
    """Which of SAMPLERS is taken unless one is asked for."""
    return "unrolled" if isinstance(forecast, FlowForecast) and len(forecast.table) <= FEW else "loop"


@contextmanager
def drawing(forecast: GaussianForecast, residual: Residual) -> Iterator[None]:
    """Inside, the forecast's residuals are made by this."""
    forecast.residual = partial(residual, forecast)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del forecast.residual
