"""The Containerfile, which is not built here: it asks for what the server needs, and starts what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from robustmdiff.cli.serve import serve
from tests.serving.conftest import ROOT

TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EVERYTHING = """
import json, pkgutil, sys
from importlib import import_module
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))  # as if they were not installed
import onnxruntime, pydicom, tifffile
import robustmdiff.cli.main, robustmdiff.data.pictures, robustmdiff.runtime, robustmdiff.serving
for room in (robustmdiff.serving, robustmdiff.runtime, robustmdiff.data.pictures):
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        import_module(module.name)
"""


def instruction(name: str) -> str:
    (found,) = re.findall(rf"^{name} (.*)$", TEXT, re.MULTILINE)
    return found


def installed() -> set[str]:
    (words,) = re.findall(r"pip install (.*?)&&", instruction("RUN"))
    return {canonicalize_name(word) for word in words.split() if not word.startswith("-")}


def named(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements}


def test_it_installs_what_serve_asks_for_and_of_the_rest_only_readers():
    extras = PROJECT["optional-dependencies"]
    assert named(extras["serve"]) <= installed()
    assert installed() - named(extras["serve"]) - {"numpy"} == {"pydicom", "tifffile"}
    assert {"pydicom", "tifffile"} <= named(extras["clinical"])


def test_nothing_else_is_needed():
    """Of the packages that are installed here the others are hidden, but for what these ask for."""
    there, new = set[str](), installed()
    while new:
        there |= new
        asked = [Requirement(each) for name in new for each in requires(name) or []]
        new = {canonicalize_name(each.name) for each in asked if not each.marker or each.marker.evaluate()}
        new -= there
    own = there | {"robustmdiff"}
    hidden = [
        module
        for module, packages in packages_distributions().items()
        if module not in sys.stdlib_module_names and not own & {canonicalize_name(each) for each in packages}
    ]
    assert {"captum", "torch", "transformers"} <= {*hidden}
    words = [sys.executable, "-c", EVERYTHING, json.dumps(hidden)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_starts_the_command_with_options_that_it_has():
    assert json.loads(instruction("ENTRYPOINT")) == ["python", "-m", "robustmdiff", "serve"]
    app = typer.Typer()
    app.command()(serve)
    words = json.loads(instruction("CMD"))
    given = typer.main.get_command(app).make_context("serve", words).params
    assert [str(each) for each in given["artefacts"]] == ["/model"]
    assert str(given["audit"]).startswith("/records/")
    assert f"EXPOSE {given['port']}" in TEXT


def test_its_python_is_one_that_the_package_takes():
    (version,) = re.findall(r"^FROM \S+python:([\d.]+)-slim$", TEXT, re.MULTILINE)
    assert version in SpecifierSet(PROJECT["requires-python"])
