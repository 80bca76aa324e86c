"""The command line as it is used: what it prints where, what it writes, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import typer

from robustmdiff import _native
from robustmdiff.cli import main as cli
from robustmdiff.data.files import file_name
from robustmdiff.evaluation.report import headline
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.models import BASELINES
from tests.cli.said import COMMANDS, GROUPS, TINY, Said, command


@pytest.fixture(scope="session")
def trained(say, tmp_path_factory) -> tuple[Path, Said]:
    """A tiny run with its baselines, and what was said while it was made."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    said = say("train", "--out", folder, "--baselines", "--json", *TINY)
    assert said.code == 0, said.err
    return folder, said


@pytest.fixture(scope="session")
def run(trained) -> Path:
    return trained[0]


def no_bars(said: Said) -> None:
    assert "\r" not in said.out
    assert "warning" not in said.out.lower()


def test_cohort(say):
    said = say("cohort", "--patients", 12, "--missingness", "mcar", "--rate", 0.4, "--json")
    assert said.code == 0
    assert said.json["patients"] == 12
    assert sum(row["patients"] for row in said.json["classes"]) == 12
    assert all(row["present"] <= 12 for row in said.json["modalities"])
    table = say("cohort", "--patients", 12)
    assert "congestive heart failure" in table.out
    no_bars(table)


def test_train_prints_its_result_and_nothing_else(trained):
    folder, said = trained
    places = {row["model"]: row["folder"] for row in said.json["runs"]}
    assert places == {
        "robustmdiff": str(folder),
        **{name: str(folder / "baselines" / name) for name in BASELINES},
    }
    assert "epoch 1 of 1" in said.err  # bars and validations are told on stderr
    assert all((Path(place) / "model" / "model.safetensors").exists() for place in places.values())


def test_evaluate(say, run, tmp_path):
    """Beside two baselines; tests/experiment/test_cross_validation.py evaluates all others, too."""
    some, out = {"bottleneck", "late_fusion"}, tmp_path / "evaluation"
    few = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns(*{*BASELINES} - some))
    said = say("evaluate", few, "--out", out, "--draws", 2, "--replicates", 10, "--json")
    assert said.code == 0, said.err
    methods = {row["method"] for row in said.json["headline"]}
    assert methods == {"RobustMDiff", *some, "source_only", "ceiling"}
    assert said.json["folder"] == str(out)
    assert {"report.md", "results.json", "retention.png"} <= {path.name for path in out.iterdir()}


def test_runs_of_several_seeds_are_averaged(say, run, tmp_path, monkeypatch, undrawn):
    """Of a run and itself the mean is what the run has alone, which is why it is evaluated once."""
    alone, asked = tmp_path / "run", []

    @cache
    def evaluated():
        return evaluate_run(alone, replicates=10)

    def evaluate(folder, **options):
        asked.append((folder, options["replicates"]))
        return evaluated()

    monkeypatch.setattr("robustmdiff.experiment.evaluate.evaluate_run", evaluate)
    shutil.copytree(run, alone, ignore=shutil.ignore_patterns("baselines", "evaluation", "tensorboard"))
    two = say("evaluate", alone, alone, "--out", tmp_path / "two", "--replicates", 10, "--json")
    assert two.code == 0, two.err
    assert two.json["headline"] == json.loads(json.dumps(headline(evaluated())))
    assert asked == [(alone, 10), (alone, 10)]
    assert "Means over 2 runs" in (tmp_path / "two" / "report.md").read_text(encoding="utf-8")
    refused = say("evaluate", alone, alone)
    assert refused.code == 2
    assert "--out is not given, expected a folder for the mean of 2 runs" in " ".join(refused.err.split())


def test_predict_writes_a_row_for_each_patient_and_class(say, run, tmp_path):
    out = tmp_path / "predictions.csv"
    said = say("predict", run, "--out", out, "--draws", 2)
    assert said.code == 0, said.err
    assert str(out) in said.out
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "patient", "class", "probability", "low", "high", "in_set", "unlike_training", "missing",
        "nothing_known", "answer",
    ]  # fmt: skip
    by_patient: dict[str, float] = {}
    for row in rows:
        assert float(row["low"]) <= float(row["high"])
        by_patient[row["patient"]] = by_patient.get(row["patient"], 0) + float(row["probability"])
    assert len(by_patient) == 12
    assert all(total == pytest.approx(1, abs=1e-4) for total in by_patient.values())


def test_predict_without_draws_says_nothing_of_what_could_change(say, run, tmp_path):
    out = tmp_path / "predictions.csv"
    assert say("predict", run, "--out", out, "--draws", 0).code == 0
    with out.open(encoding="utf-8") as file:
        assert {(row["low"], row["high"], row["answer"]) for row in csv.DictReader(file)} == {
            ("", "", "head")
        }
    words = say("predict", run, "--draws", 0)
    assert words.out.startswith(
        "Prediction sets, with the probability of each class\nAnswers come from the head"
    )
    assert say("predict", run, "--draws", 1).code == 2


def test_predict_some_patients_in_words_and_in_json(say, run):
    every = say("predict", run, "--draws", 2, "--json").json["predictions"]
    some = [every[0]["patient"], every[-1]["patient"]]
    chosen = [flag for id in some for flag in ("--patient", id)]
    said = say("predict", run, "--draws", 2, "--json", *chosen)
    assert {row["patient"] for row in said.json["predictions"]} == set(some)
    words = say("predict", run, "--draws", 2, *chosen)
    assert all(id in words.out for id in some)
    assert max(map(len, words.out.splitlines())) <= 85
    no_bars(words)


def test_explain_writes_one_page_that_stands_alone(say, run):
    every = say("predict", run, "--draws", 2, "--json").json["predictions"]
    id = every[0]["patient"]
    said = say("explain", run, "--patient", id, "--hide", "ct", "--hide", "mri", "--draws", 2)
    assert said.code == 0, said.err
    page = run / "patients" / f"{file_name(id)}.html"
    assert str(page) in said.out
    html = page.read_text(encoding="utf-8")
    for link in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", html):
        assert link.startswith(("data:", "#")), link
    assert not re.search(r"@import|url\((?!['\"]?(data:|#))", html)
    assert id in html
    assert {row["class"] for row in every} - {
        name for name in {r["class"] for r in every} if name in html
    } == set()


def test_explain_as_json(say, run, tmp_path):
    page = tmp_path / "patient.html"
    said = say("explain", run, "--draws", 2, "--out", page, "--json")
    assert said.json["page"] == str(page)
    assert sum(c["probability"] for c in said.json["classes"]) == pytest.approx(1, abs=1e-4)
    assert page.exists()


def test_info(say, run):
    installed = say("info", "--json").json
    assert {"robustmdiff", "torch", "native", "masked_attention"} <= set(installed)
    about = say("info", run, "--json").json
    assert about["model"] == "RobustMDiff"
    assert about["findings"] == 42
    assert "congestive heart failure" in say("info", run).out.replace("\n", " ")


def test_info_says_what_the_kernels_compute_with():
    if _native.reason is not None:
        pytest.skip(_native.reason)
    code = "from robustmdiff.cli.info import describe_installation as say; print(say()['native'])"
    env = os.environ | {"RMD_CPU_ISA": "scalar"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert done.stdout == "loaded, scalar\n"


@pytest.mark.parametrize("name", [f"{name} {GROUPS.get(name, '')}".strip() for name in COMMANDS])
def test_help_shows_an_example(say, name):
    said = say(*name.split(), "--help")
    assert said.code == 0
    assert re.search(rf"Examples?:\n +robustmdiff {name} ", said.out)
    assert max(map(len, said.out.splitlines())) <= 80


def test_help_lists_every_command(say):
    out = say("--help").out
    assert all(re.search(rf"^  {name} +\w", out, re.MULTILINE) for name in COMMANDS)
    assert "..." not in out.partition("Commands:")[2]  # nothing is cut off


BAD = {  # arguments (RUN: a run; NEW: a place where nothing is) to what the error says
    "explain RUN --hide scan": "hide is 'scan', expected one of xray, ct",
    "explain RUN --patient nobody": "no patient 'nobody' in this study",
    "predict RUN --patient nobody": "no patient 'nobody' in this study",
    "train --out NEW --device abacus": "device is 'abacus', which cannot be used",
    "train --out NEW --set epoch=3": "unknown key 'epoch'.*did you mean 'epochs'",
    "train --out NEW --set model.dh=3": "unknown key 'model.dh'",
    "train --out NEW --set epochs=none": "epochs is 'none', expected",
    "train --out NEW --set epochs": "--set is 'epochs', expected name=value",
    "train --out NEW --config NEW.yaml": "there is no such file",
    "train --out NEW --option trian=3": "option 'trian' is unknown for cohort",
    "train --out NEW --option train=few": "train is 'few', expected a whole number",
    "train --out NEW --encoder text": "--encoder is 'text', expected modality=model",
    "train --out NEW --encoder tekst=a": "encoder is given for 'tekst', expected",
    "train --out NEW --encoder genomic=a": "'genomic': encoder is 'a', expected 'package.module:Class'",
    "train --out NEW --encoder text=/no": "encoder '/no' cannot be loaded",
    "train --out NEW --data folder": "root is None, expected the folder of folder",
    "train --out NEW --data covid --root NEW": "there is no such folder",
    "train --out NEW --data folder --root RUN": "has no task.json",
    "train --out RUN": "holds a run, expected a new folder, or --resume",
    "train --out RUN --resume --set epochs=2": "is from another config: epochs is 1 in",
    "train --out RUN --resume --option train=41": "is a run on other data: options is",
    "evaluate NEW": "holds no run, expected .*`robustmdiff train` wrote",
    "predict NEW": "holds no run",
    "explain NEW": "holds no run",
    "info NEW": "holds no run",
    "train --out NEW --model oracle": "--model is 'oracle', expected one of robustmdiff, late_fusion",
    "train --out NEW --model single_modality": "--model is 'single_modality', expected one of",
    "train --out NEW --data hospital": "data is 'hospital', expected one of cohort, chestxray",
    "train --out NEW --set model.patch=5": "image is 16 x 16, expected sides that are multiples of patch = 5",
    "train --out NEW --set model.max_tokens=1": "max_tokens is 1, expected at least 2",
    "train --out NEW --set p_scale.scan=2": "scale names 'scan', expected one of xray",
    "train --out NEW --set batch_size=[": "--set is 'batch_size=\\[', expected a value in YAML",
    "evaluate RUN --data NEW": "root .*new: there is no such folder",
    "evaluate RUN --data chestxray": "--data is 'chestxray', expected with it --root",
    "evaluate RUN --data hospital --root RUN": "--data is 'hospital', expected with --root the format there",
    "evaluate RUN --root RUN": "--root is .*, expected none without --data",
    "predict RUN --device abacus": "device is 'abacus', which cannot be used",
    "explain RUN/baselines/late_fusion": "is a LateFusion, expected RobustMDiff",
    "data verify NEW": "there is no such folder",
    "data verify": "no data are named, expected a folder",
    "data verify --data covid --root RUN": "has no metadata.csv",
    "cohort --missingness often": "missingness is 'often', expected one of",
    "cohort --rate 1.5 --missingness mcar": "rate is 1.5, expected a number in",
}


@pytest.mark.parametrize(("arguments", "message"), BAD.items(), ids=BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(say, run, tmp_path, arguments, message):
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    places = {"RUN": str(run), "NEW": str(tmp_path / "new"), "NEW.yaml": str(tmp_path / "new.yaml")}
    name, *own = (re.sub(r"^(RUN|NEW(\.yaml)?)(?=/|$)", lambda m: places[m[0]], w) for w in arguments.split())
    tiny = TINY if name == "train" and "--data" not in own else []
    given = [name, *tiny, *own]  # of two values for one name the last counts
    error = say(*given).error
    assert re.search(message, error), error
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
    assert not (tmp_path / "new" / "model").exists()


def test_a_place_that_cannot_be_written_to(say, run, tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert str(file) in say("train", "--out", file / "run", *TINY).error
    assert str(tmp_path) in say("predict", run, "--draws", 2, "--out", tmp_path).error


def test_a_word_that_no_option_takes(say):
    said = say("train", "--nonsense")
    assert said.code == 2
    assert "No such option" in said.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model/model.safetensors", None, r"model.safetensors: cannot be read .*expected whole weights"),
        ("model/model.json", b"{", r"model.json: is not JSON"),
        ("study.json", b"[]", r"study.json: cannot be read"),
        ("conformal.json", b"{", r"conformal.json"),
        ("abstention.json", b"{", r"abstention.json"),
    ],
)
def test_a_damaged_run_names_the_file(say, run, tmp_path, name, content, message):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("baselines", "evaluation", "tensorboard"))
    damaged = copy / name
    damaged.write_bytes(damaged.read_bytes()[:2000] if content is None else content)
    error = say("predict", copy).error
    assert re.search(message, error), error


def test_a_run_whose_training_has_not_finished(say, run, tmp_path):
    unfinished = tmp_path / "run"
    shutil.copytree(run, unfinished, ignore=shutil.ignore_patterns("baselines", "model", "conformal.json"))
    assert "not finished, expected `robustmdiff train --resume`" in say("predict", unfinished).error


@pytest.mark.slow  # three processes; what resumes is tested where it is written
def test_ctrl_c_saves_and_resume_finishes(say, environment, tmp_path):
    out = tmp_path / "run"
    settings = ("epochs=15", "batch_size=64", "valid_every=15", "save_every=1")  # 15 steps
    arguments = ["train", "--out", out, *TINY, *(word for s in settings for word in ("--set", s))]
    process = subprocess.Popen(
        command(*arguments), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 300
    while not (out / "last.safetensors").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert said == ""
    assert re.search(r"stopped after step \d+ of 15, saved in .*--resume", err)
    done = say(*arguments, "--resume", "--json")
    assert done.code == 0, done.err
    assert done.json["runs"] == [{"model": "robustmdiff", "folder": str(out)}]
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in steps if "loss" in row] == list(range(1, 16))


def test_every_command_is_tested_here():
    known = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert known == set(COMMANDS)
