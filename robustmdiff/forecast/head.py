"""A head taught by the model's own answer once it sees everything: the diagnosis that seeing more will, on
average, confirm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.forecast.contract import Pairs, Seen
from robustmdiff.forecast.fitting import drawing_by, fit
from robustmdiff.forecast.told import Standardise, of_seen
from robustmdiff.labels import Labels

WIDTH, DROPOUT, WEIGHT_DECAY, STEPS = 64, 0.2, 0.05, 600


class FullViewHead(nn.Module):
    """q(c | x_m) = probability(logits(m) / T_k + MLP(x_m)), a temperature for each number k of modalities.

    latent D, modalities M, classes C. Before anything is learned it says what the model says.
    """

    def __init__(self, latent: int, modalities: int, classes: int, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.sizes = latent + 2 * classes + modalities, classes
        self.told = Standardise(self.sizes[0])
        self.log_T = nn.Parameter(torch.zeros(modalities + 1))
        self.start()

    def start(self) -> None:
        told, classes = self.sizes
        leave = nn.Linear(WIDTH, classes)
        nn.init.zeros_(leave.weight)
        nn.init.zeros_(leave.bias)
        nn.init.zeros_(self.log_T)
        self.layers = nn.Sequential(
            *(nn.Linear(told, WIDTH), nn.GELU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(DROPOUT)),
            leave,
        )

    def fit(self, pairs: Pairs, logits: Tensor, target: Tensor, key: Tensor) -> None:
        """Pairs whose view is everything; logits [n, C], what the model says of what is seen; target [n, C],
        its probabilities once it sees the view. `key` is all the randomness."""
        self.told.fit(of_seen(pairs.seen))
        told, count = self.told(of_seen(pairs.seen)), pairs.seen.m.sum(1)
        every = torch.ones_like(target)

        def surprise(rows: Tensor) -> Tensor:
            said = self._say(told[rows], count[rows], logits[rows])
            return self.labels.loss(said, target[rows], every[rows].bool(), every[rows]).mean()

        with drawing_by(key):
            self.start()
            self.to(logits.device)
            whose = pairs.patient, pairs.watching
            fit(self, surprise, *whose, what="the head", steps=STEPS, weight_decay=WEIGHT_DECAY)

    def forward(self, seen: Seen, logits: Tensor) -> Tensor:
        """Logits [n, C]."""
        return self._say(self.told(of_seen(seen)), seen.m.sum(1), logits)

    def _say(self, told: Tensor, count: Tensor, logits: Tensor) -> Tensor:
        """With `count` modalities visible, int64 [n]."""
        return logits / self.log_T[count].exp()[:, None] + self.layers(told)
