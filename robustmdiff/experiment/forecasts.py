"""The forecast of a run beside simple ones, on its study."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.calibration import Collate
from robustmdiff.diagnosis.latents import pairs_of
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.evaluation.forecasts import Comparison, Draw, ask, score
from robustmdiff.forecast.contract import Forecast
from robustmdiff.forecast.donor import DonorForecast
from robustmdiff.forecast.neighbours import NeighboursForecast
from robustmdiff.forecast.ridge import RidgeForecast
from robustmdiff.ops import philox_key


def rivals(model: RobustMDiff) -> dict[str, Forecast]:
    """The forecasts that a generator has to beat, not fitted yet."""
    return {
        "class donor": DonorForecast(model.log_tau.exp(), model.labels),
        "neighbours": NeighboursForecast(),
        "ridge": RidgeForecast(model.condensed, len(model.task.modalities)),
    }


def score_forecasts(
    model: RobustMDiff,
    training: Sequence[Patient],
    test: Sequence[Patient],
    collator: Collate,
    *,
    seed: int = 0,
    replicates: int = 200,
) -> Comparison:
    """The second stage of the model first, then each rival, fitted on the same latents of the training
    patients and scored on the same test patients, views and resamples. The donor's class is drawn from the
    same diagnosis as the second stage's. Takes seconds to a minute."""
    stage = model.second_stage
    assert stage is not None
    pairs = pairs_of(model, training, collator, seed)
    forecasts: dict[str, Draw] = {stage.kind: partial(stage.draw, model)}
    for name, rival in rivals(model).items():
        rival.fit(pairs, philox_key(seed, device=pairs.y.device))
        forecasts[name] = rival.draw
    donor = forecasts["class donor"]
    forecasts["class donor"] = lambda seen, *asked: donor(stage.expecting(model, seen), *asked)
    asked = ask(model, test, collator, seed)
    return score(model, forecasts, asked, stage.change, seed=seed, replicates=replicates)
