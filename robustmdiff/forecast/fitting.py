"""The one way in which networks of the second stage are fitted: small ones, in seconds, on cached latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustmdiff.training.ema import WeightAverage
from robustmdiff.training.optimizer import adamw, warmup_cosine
from robustmdiff.training.order import random_key

BATCH = 128  # rows per step
LEARNING_RATE, WARMUP, CLIP, AVERAGED = 2e-3, 0.05, 1.0, 0.98
STEPS_A_PATIENT = 7  # and not more: few are soon known by heart
LOOK_EVERY = 100  # steps


@contextmanager
def drawing_by(key: Tensor) -> Iterator[None]:
    """Inside, torch's own generators draw by the key int64 [2] alone; afterwards they are as they were."""
    with torch.random.fork_rng(devices=[key.device] if key.is_cuda else []):
        torch.manual_seed(random_key(*(part % 2**64 for part in key.tolist())))
        yield


def fit(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    patient: Tensor,
    watching: Tensor,
    *,
    what: str,
    steps: int = 1800,
    steps_a_patient: int = STEPS_A_PATIENT,
    weight_decay: float = 0.02,
) -> None:
    """Minimise `loss`, the mean over rows int64 [b], on those who do not watch; patient int64 [n] and
    watching bool [n] as in `Pairs`. In so many steps or, of few patients, in so many for each.

    The network ends in evaluation mode, with those of its averaged weights that were best for those who watch
    (the last where nobody does). Random numbers are torch's own: see `drawing_by`.
    """
    fitted, held = (rows.nonzero()[:, 0] for rows in (~watching, watching))
    steps = min(steps, max(steps_a_patient * len(patient[fitted].unique()), LOOK_EVERY))
    optimizer = adamw(network, LEARNING_RATE, weight_decay)
    average = WeightAverage(network, AVERAGED)
    least, best = math.inf, average.weights
    for step in tqdm(range(steps), desc=f"fitting {what}", unit="step", disable=None, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warmup_cosine(step, steps, WARMUP)
        network.train()
        loss(fitted[torch.randint(len(fitted), (BATCH,), device=fitted.device)]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        if len(held) and ((step + 1) % LOOK_EVERY == 0 or step + 1 == steps):
            with average.applied():
                error = _looked_at(network, loss, held)
            if error < least:
                least, best = error, {name: w.clone() for name, w in average.weights.items()}
    network.load_state_dict(best, strict=False)  # buffers are no weights
    network.eval()


@torch.no_grad()
def _looked_at(network: nn.Module, loss: Callable[[Tensor], Tensor], rows: Tensor) -> float:
    """The loss on rows, with the same noise every time."""
    network.eval()
    with drawing_by(torch.zeros(2, dtype=torch.int64, device=rows.device)):
        return float(loss(rows))
