"""What is written of an evaluation: the report, its numbers as JSON, and what is left out of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustmdiff.diagnosis.contract import Logits
from robustmdiff.evaluation.conditions import COMPLETE, MCAR, mcar
from robustmdiff.evaluation.masks import RATES, draw_masks
from robustmdiff.evaluation.protocol import evaluate
from robustmdiff.evaluation.report import headline, to_json, write_report
from robustmdiff.evaluation.tables import CAPTIONS
from tests.evaluation.ward import MODALITIES, TASK, C, Stub, collate, run, ward


def test_reliability_of_a_class_is_that_of_the_answers(results):
    p = results.probability["sure"][MCAR(0.5)].astype(float)
    label = results.truth.label
    found = results.reliability("sure", MCAR(0.5), "ill", bins=5)
    here = (p[:, 1] >= 0.2) & (p[:, 1] < 0.4)
    assert found.patients[1] == here.sum() > 0
    assert found.stated[1] == pytest.approx(p[here, 1].mean())
    assert found.right[1] == pytest.approx(label[here, 1].mean())
    likeliest = results.reliability("sure", MCAR(0.5))
    right = label[np.arange(len(p)), p.argmax(1)]
    assert likeliest.patients.sum() == len(p)
    share = np.nansum(likeliest.right * likeliest.patients) / len(p)
    assert share == pytest.approx(right.mean())
    stored = to_json(results)["methods"]["sure"]["reliability"]["mcar/0.5"]["ill"]
    assert sum(patients for _, _, patients in stored) == len(p)


class Coin(Stub):
    """Answers with what has nothing to do with the patient's class."""

    def classify(self, encoded):
        x = encoded.H[..., 0].masked_fill(~encoded.m, 0)
        noise = torch.from_numpy(
            np.sin(1e4 * x.detach().numpy() @ np.arange(1.0, 4.0)[:, None] + np.arange(C))
        )
        return Logits(noise.float())


def test_what_is_retained_of_chance_is_no_number(tmp_path, undrawn):
    patients, _, _ = ward(180)
    found = evaluate(
        {"coin": Coin(), "stub": Stub()},
        patients,
        collate,
        TASK,
        references={"ceiling": lambda left: np.tile(TASK.prevalence, (180, 1))},
        replicates=50,
    )
    full = found.near_chance("coin")
    assert full.low <= 0.5 <= full.value + 0.2
    assert np.isnan(found.retention("coin")).all()
    assert found.area("coin") is None
    assert found.near_chance("stub") is None
    assert found.area("stub").value > 0
    assert found.share_of_ceiling("stub", COMPLETE) is None  # a ceiling of chance is none
    stored = to_json(found)["methods"]
    assert stored["coin"]["retention"] == stored["coin"]["area_under_retention"] == {}
    assert stored["coin"]["near_chance"] == pytest.approx(list(full), abs=1e-6)
    assert stored["stub"]["near_chance"] is None
    text = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert f"No retention of coin: its AUROC with everything, {full}, may be chance" in text
    assert "nan" not in text


def test_report_is_whole_and_readable(results, tmp_path):
    (tmp_path / "report.md").write_text("an older one", encoding="utf-8")
    noted = replace(results, notes=("Table 7.",))
    path = write_report(noted, tmp_path, title="A ward", notes=["one seed"])
    names = {p.name for p in tmp_path.iterdir()}
    figures = {f"{name}.png" for name in CAPTIONS}
    assert names == {"report.md", "results.json", "masks.npz", "predictions.npz"} | figures
    text = path.read_text(encoding="utf-8")
    assert "- Table 7.\n- one seed" in text
    assert "rarely seen" in text
    assert "nan" not in text
    assert all(f"({name})" in text for name in figures)
    stored = json.loads(
        (tmp_path / "results.json").read_text(encoding="utf-8"), parse_constant=pytest.fail
    )  # no NaN
    assert stored["notes"] == ["Table 7."]
    value, low, high = stored["methods"]["stub"]["conditions"]["mcar/0.5"]["auroc/macro"]
    assert low <= value <= high
    assert stored["methods"]["stub"]["retention"]["mcar/0.0"] == [1, 1, 1]
    assert len(stored["methods"]["stub"]["retention"]) == 2 * len(RATES) - 1
    assert stored["methods"]["sure"]["share_of_ceiling"]["mcar/0.5"][0] <= 1.05
    assert "stub - sure" in stored["paired_differences"]


def test_headline_has_a_row_for_each_method(results):
    rows = headline(results)
    assert [row["method"] for row in rows] == ["stub", "sure", "ceiling"]
    assert rows[0]["AUROC"] == round(float(results.values["stub"][COMPLETE]["auroc/macro"][0]), 3)
    assert rows[2]["coverage, half missing"] is None
    json.dumps(rows, allow_nan=False)


def test_an_interrupted_report_leaves_the_old_one(results, tmp_path, monkeypatch, undrawn):
    (tmp_path / "report.md").write_text("an older one", encoding="utf-8")
    monkeypatch.setattr("robustmdiff.evaluation.report.to_markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(results, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "an older one"


def test_a_class_nobody_has_is_said():
    patients, _, _ = ward(50)
    some = [i for i, p in enumerate(patients) if not p.labels["rarely seen"]]
    found = evaluate({"stub": Stub()}, [patients[i] for i in some], collate, TASK, replicates=5)
    assert found.skipped == ("rarely seen",)
    assert to_json(found)["skipped_classes"] == ["rarely seen"]


def masks_at(n, rates):
    patients, _, present = ward(n)
    return draw_masks([p.id for p in patients], present, MODALITIES, rates=rates)


def test_few_rates_are_reported_too(tmp_path):
    found = run(60, masks=masks_at(60, (0.0, 0.4)), replicates=5)
    assert found.half == mcar(0.4)
    text = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert "area 0 to 0.4" in text
    assert (tmp_path / "classes.png").exists()
    only = run(60, masks=masks_at(60, (0.0,)), replicates=5)
    assert only.area("stub") is None
    write_report(only, tmp_path)
