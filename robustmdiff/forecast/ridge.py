"""The linear forecast: a ridge regression of the change, and a Gaussian around it."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.diffusion.sample import pure_noise
from robustmdiff.forecast.contract import Forecast, Pairs, Seen
from robustmdiff.forecast.told import Standardise, of_view

FOLDS = 7  # of the patients: an error is that of a fit on the others
PENALTIES = (1.0, 10.0, 100.0, 1000.0)  # on standardised numbers, in rows
JITTER = 1e-6


class RidgeForecast(Forecast):
    """y' - y_m is linear in what is seen and what is asked for, with a Gaussian residual of one covariance
    for each number of modalities added. Penalty and covariance are those of patients left out of the fit.

    latent D, modalities M.
    """

    weight: Tensor
    spread: Tensor

    def __init__(self, latent: int, modalities: int) -> None:
        super().__init__()
        told = latent + 2 * modalities + 1
        self.told, self.change = Standardise(told), Standardise(latent)
        self.register_buffer("weight", torch.zeros(told + 1, latent))
        self.register_buffer("spread", torch.zeros(modalities + 1, latent, latent))

    def fit(self, pairs: Pairs, key: Tensor) -> None:
        """Nothing here is random: the key is not used."""
        seen = pairs.seen
        self.to(seen.y.device)
        self.told.fit(of_view(seen, pairs.view))
        self.change.fit(pairs.y - seen.y)
        x, change = self._tell(seen, pairs.view).double(), self.change(pairs.y - seen.y).double()
        fold = pairs.patient.unique(return_inverse=True)[1] % FOLDS
        errors = [self._left_out(x, change, fold, penalty) for penalty in PENALTIES]
        best = min(range(len(PENALTIES)), key=lambda i: float(errors[i].square().mean()))
        self.weight = solve(x, change, PENALTIES[best]).float()
        self.spread = self._spread(errors[best], (pairs.view & ~seen.m).sum(1)).float()

    def sample(self, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        mean = self._tell(seen, view) @ self.weight
        z = pure_noise(mean.new_empty(draws, mean.shape[1]), key)  # the same for every patient
        spread = self.spread[(view & ~seen.m).sum(1)]
        return seen.y[:, None] + self.change.back(mean[:, None] + torch.einsum("nij,sj->nsi", spread, z))

    def _tell(self, seen: Seen, view: Tensor) -> Tensor:
        told = self.told(of_view(seen, view))
        return torch.cat([told, torch.ones_like(told[:, :1])], dim=-1)

    @staticmethod
    def _left_out(x: Tensor, change: Tensor, fold: Tensor, penalty: float) -> Tensor:
        """Errors [n, D] of fits that have not seen the row's patient."""
        error = torch.empty_like(change)
        for i in range(FOLDS):
            out = fold == i
            error[out] = change[out] - x[out] @ solve(x[~out], change[~out], penalty)
        return error

    def _spread(self, error: Tensor, added: Tensor) -> Tensor:
        """[M + 1, D, D], the Cholesky factor of the errors' covariance by how many modalities are added; that
        of all rows where fewer rows than numbers have it."""
        factors = []
        for count in range(len(self.spread)):
            rows = error[added == count]
            rows = rows if len(rows) > error.shape[1] else error
            covariance = rows.T @ rows / len(rows)
            eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
            factors.append(torch.linalg.cholesky(covariance + JITTER * eye))
        return torch.stack(factors)


def solve(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Ridge regression of y [n, D] on x [n, f], whose last column is constant and unpunished -> [f, D]."""
    punished = torch.full((x.shape[1],), penalty, dtype=x.dtype, device=x.device)
    punished[-1] = JITTER
    return torch.linalg.solve(x.T @ x + punished.diag(), x.T @ y)
