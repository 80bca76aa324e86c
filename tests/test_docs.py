"""What README.md and docs/ say is so: links lead somewhere, commands parse, examples run.

A block marked ```python fragment needs objects or files that the page only talks about: it is
parsed and its imports are made. Numbers of patients and epochs are made small before a block runs. A guide
is run as a whole, commands and blocks in turn.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from robustmdiff.cli.main import app
from robustmdiff.cli.pairs import pairs
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.generator import load_generator_config
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.testing import OPS
from robustmdiff.training.config import TrainConfig, load_config, make_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
RUN_ELSEWHERE = [  # tests/ops/test_docs.py, tests/**/test_adding_a*.py, and each guide as a whole
    *(ROOT / "docs" / "ops" / f"{op}.md" for op in OPS),
    ROOT / "docs" / "adding_an_op.md",
    ROOT / "docs" / "adding_a_kind.md",
    *GUIDES,
]
SMALLER = {  # in examples that run
    r'("train": )\d{2,}': r"\g<1>24",
    r'("(?:calibration|test)": )\d{2,}': r"\g<1>6",
    r"(patients=)\d+": r"\g<1>110",  # about as many as `reader_check` needs
    r"(rare_per_class=)\d+": r"\g<1>2",
    r"(epochs=)\d+": r"\g<1>1",
    r"(--replicates )\d+": r"\g<1>9",
}
GENERATED = re.compile(r"<!-- numbers: .*?<!-- end of numbers -->", re.DOTALL)
WIDTH = 118
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """(what else the fence says, the block)"""
    for info, block in FENCE.findall(page.read_text(encoding="utf-8")):
        said, _, more = info.strip().partition(" ")
        if said == language:
            yield more, block


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    return re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(
        r"""<(?:img|a)[^>]+(?:src|href)="([^"]+)""", text
    )


def commands(page: Path) -> Iterator[list[str]]:
    """Every `robustmdiff ...` and `make ...` line of a block, fenced or indented, as words."""
    text = page.read_text(encoding="utf-8")
    inside = [block for info, block in FENCE.findall(text) if not info.startswith(("python", "json", "yaml"))]
    inside.append("\n".join(re.findall(r"^(?:    |\t)(.*)$", FENCE.sub("", text), re.MULTILINE)))
    for line in "\n".join(inside).replace("\\\n", " ").splitlines():
        command = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        command = re.sub(r"^(\w+=\S+ +)+", "", command)  # VARIABLE=value before it
        if command.startswith(("robustmdiff ", "make ")):
            words = shlex.split(command, comments=True)
            yield words[: min((words.index(w) for w in ("|", ">", "&&", "2>") if w in words), default=None)]


def mentioned(page: Path) -> Iterator[list[str]]:
    """Every `robustmdiff ...` and `make ...` within a sentence; they need not be complete."""
    for command in re.findall(r"`((?:robustmdiff|make) [^`]+)`", prose(page)):
        yield command.split("|")[0].split()


def imported() -> Iterator[tuple[str, str]]:
    """(module, name) of all that an example of a page imports from us: what is told to others is public. The
    page on ops makes an op of its own, which is none of ours."""
    for page in PAGES:
        for _, block in blocks(page, "python"):
            for node in ast.walk(ast.parse(block)):
                module = getattr(node, "module", None) or ""
                file = ROOT / module.replace(".", "/")
                if module.startswith("robustmdiff") and (file.is_dir() or file.with_suffix(".py").exists()):
                    names = (each.name for each in node.names if not each.name.isupper())  # no constant
                    yield from ((module, each) for each in names)


def public() -> Iterator[tuple[str, str]]:
    """(module, name) of every `__all__`, but for what comes from other packages."""
    for path in sorted((ROOT / "robustmdiff").rglob("*.py")):
        if "\n__all__ = " in path.read_text(encoding="utf-8"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for each in import_module(module).__all__:
                found = getattr(import_module(module), each)
                if getattr(found, "__module__", "").startswith("robustmdiff"):  # no constant
                    yield module, each


COMMANDS = [pytest.param(c, id=f"{name(p)}: {' '.join(c)}") for p in PAGES for c in commands(p)]
MENTIONED = [pytest.param(c, id=f"{name(p)}: {' '.join(c)}") for p in PAGES for c in mentioned(p)]
EXAMPLES = [
    pytest.param(page, more, block, id=f"{name(page)}-{i}")
    for page in PAGES
    if page not in RUN_ELSEWHERE
    for i, (more, block) in enumerate(blocks(page, "python"))
]
PUBLIC = sorted({*public(), *imported()})
GROUP = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_there_is_something_to_check():
    assert ROOT / "README.md" in PAGES
    assert EXAMPLES
    assert COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue  # the web
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: there are {', '.join(sorted(anchors(target)))}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_wrapped(page):
    """Prose only: a table, a heading, code and a picture have one line each; a generator wraps nothing."""
    prose = GENERATED.sub("", FENCE.sub("", page.read_text(encoding="utf-8"))).splitlines()
    alone = ("|", "#", "    ", "<!--", "![")
    assert [line for line in prose if len(line) > WIDTH and not line.startswith(alone)] == []


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `robustmdiff ...` names, and its arguments."""
    command, arguments = GROUP, words[1:]
    while hasattr(command, "commands") and arguments:
        assert arguments[0] in command.commands
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_parses(words):
    if words[0] == "make":
        assert set(words[1:]) <= TARGETS
        return
    command, arguments = command_of(words)
    context = command.make_context(command.name, arguments)
    settings, file = pairs(context.params.get("set_"), "--set"), context.params.get("config")
    if words[1] == "generator":
        load_generator_config(file and ROOT / file, settings)
    else:
        make_config(settings)
        assert file is None or load_config(ROOT / file)


@pytest.mark.parametrize("words", MENTIONED)
def test_a_command_in_a_sentence_exists(words):
    if words[0] == "make":
        assert words[1] in TARGETS
        return
    if words[1].startswith("-"):
        assert words[1] == "--help"
        return
    command, _ = command_of(words)
    known = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known


def smaller(text: str) -> str:
    for pattern, small in SMALLER.items():
        text = re.sub(pattern, small, text)
    return text


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Iterator[None]:
    """One for all pages, which draw the same patients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A small run on the built-in cohort, in the place of the one that `make demo` leaves."""
    folder = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    study = load_study(Source("cohort", options={"train": 24, "calibration": 6, "test": 6, "image_size": 16}))
    sizes = ModelConfig(d_h=16, layers=1, heads=2, patch=8, width=16, depth=1, steps=2, draws=4)
    train_run(study, TrainConfig(epochs=1, model=sizes), folder)
    return folder


@pytest.mark.parametrize(("page", "more", "block"), EXAMPLES)
def test_an_example_runs(page, more, block, tmp_path, monkeypatch, request):
    block = smaller(block)
    tree = ast.parse(block)
    if more == "fragment":
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), name(page), "exec"), {})
        return
    assert more == "", f"a fence says {more!r}, expected nothing or 'fragment'"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if "runs/demo" in block:
        (tmp_path / "runs").symlink_to(request.getfixturevalue("demo").parent)
    if page == ROOT / "README.md":  # what a new user sees first, in a new process
        command = [sys.executable, "-c", block]
        done = subprocess.run(command, env=os.environ.copy(), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    else:
        exec(compile(tree, name(page), "exec"), {})


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_public_name_is_in_the_reference(site):
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    told = {id.rpartition(".")[2] for id in re.findall(r'<h\d id="(robustmdiff\.[^"]+)"', pages)}
    assert {each for _, each in PUBLIC} <= told


@pytest.mark.parametrize(("module", "each"), PUBLIC, ids=[".".join(pair) for pair in PUBLIC])
def test_a_public_name_has_a_docstring(module, each):
    told = getattr(import_module(module), each).__doc__ or ""
    assert told.strip()
    assert not told.startswith(f"{each}(")  # as a dataclass makes one
    assert not told.startswith("Of ")  # an editor shows it without the name before it


def test_the_site_shows_every_page(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in ROOT.glob("docs/**/*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}
    assert "fragment" not in (site / "results.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_a_guide_runs_from_its_first_line_to_its_last(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {}
    ran = 0
    step = re.compile(r"^```python\n(.*?)^```$|^    (robustmdiff [^\n]*)$", re.MULTILINE | re.DOTALL)
    for block, command in step.findall(smaller(page.read_text(encoding="utf-8"))):
        ran += 1
        if block:
            exec(compile(block, name(page), "exec"), shared)
        else:
            app(shlex.split(command)[1:], standalone_mode=False)
    assert ran
