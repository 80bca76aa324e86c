"""What is the user's mistake is a sentence; what is ours shows itself; and the command line starts fast."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from robustmdiff.cli import info
from robustmdiff.cli import main as cli
from robustmdiff.cli.pairs import pairs
from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.diagnosis.pretrained import PretrainedError
from robustmdiff.knowledge.lines import OntologyError
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import CheckpointError
from robustmdiff.training.config import ConfigError
from robustmdiff.training.log import TrainingError


@pytest.fixture
def end(monkeypatch, capsys):
    """Runs `robustmdiff info RUN` where reading the run ends with an error: (exit code, standard error)."""

    def run(error: Exception) -> tuple[int, str]:
        def fail(_):
            raise error

        monkeypatch.setattr(info, "describe_run", fail)
        monkeypatch.setattr(sys, "argv", ["robustmdiff", "info", "run"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("kind", [DataError, ConfigError, CheckpointError, TrainingError, PretrainedError])
def test_every_error_about_what_was_given_is_a_refusal_and_a_value_error(end, kind):
    assert issubclass(kind, Refusal)
    assert issubclass(kind, ValueError)
    assert end(kind("x is 3, expected\n 4")) == (2, "error: x is 3, expected 4\n")


def test_an_ontology_s_error_names_file_and_line(end):
    assert issubclass(OntologyError, Refusal)
    assert end(OntologyError("hp.obo", 7, "no id")) == (2, "error: hp.obo:7: no id\n")


def test_several_mistakes_are_several_sentences(end):
    error = DataError("row 1 is wrong", "row 2 is wrong", "and 3 more")
    assert str(error) == "row 1 is wrong; row 2 is wrong; and 3 more"
    expected = "error: row 1 is wrong\nerror: row 2 is wrong\nerror: and 3 more\n"
    assert end(error) == (2, expected)


def test_a_file_that_is_not_there(end):
    assert end(FileNotFoundError(2, "No such file or directory", "a/b")) == (
        2,
        "error: a/b: No such file or directory\n",
    )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of torch's or ours"),
        Unreadable("that nobody put a file's name to"),
        OSError("without a file"),
        RuntimeError("out of memory"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        KeyError("x"),
    ],
)
def test_a_bug_of_ours_shows_where_it_came_from(end, error):
    with pytest.raises(type(error)) as found:
        end(error)
    assert found.value is error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["epochs=["], r"--set is 'epochs=\[', expected a value in YAML"),
        (["model=2", "model.d_h=8"], "--set is 'model.d_h=8', but model was given the value 2 before"),
    ],
)
def test_pairs_that_are_none(given, message):
    with pytest.raises(Refusal, match=message):
        pairs(given, "--set")


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys\nfrom robustmdiff.cli import main as cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print(*[name for name in ('torch', 'numpy', 'transformers', 'accelerate') if name in sys.modules],"
        " file=sys.stderr)"
    )
    for asked in ("--help", "--version", "train --help", "data verify --help"):
        done = subprocess.run(
            [sys.executable, "-c", code, *asked.split()], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(("Usage: ", "robustmdiff 0."))
        assert done.stderr.split() == [], asked


def test_a_module_to_run():
    done = subprocess.run(
        [sys.executable, "-m", "robustmdiff", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "robustmdiff 0.1.0\n"


def test_verify_says_that_a_folder_is_not_signed(say, tmp_path):
    said = say("verify", tmp_path, "--key", tmp_path / "ours.pub")
    assert said.code == 2
    assert said.err.startswith(f"error: {tmp_path / 'model.sig'}: is not there, expected the signature")


def test_export_says_which_packages_it_needs(say, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr("robustmdiff.cli.export.find_spec", lambda n: None if n == "onnx" else found(n))
    said = say("export", tmp_path, "--out", tmp_path / "exported")
    assert said.code == 2
    assert said.err == "error: export needs onnx, expected installed (pip install 'robustmdiff[export]')\n"
