"""`robustmdiff serve`: an exported model behind HTTP."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.serving.attributions import Attribute
    from robustmdiff.serving.generations import Generate

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
EXPLAINING = ("torch", "captum", "tokenizers", "pydantic")  # of a run
GENERATING = ("torch", "safetensors", "tokenizers", "pydantic", "PIL")  # of a generator


def serve(
    artefacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARTEFACT...", help="What `robustmdiff export` wrote; of several, the last answers."
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="What was exported: the page has pixels and words. Needs torch."),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Of `robustmdiff generator train`: the page has what is missing, synthetic. Needs torch.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the model, in paths.")] = "robustmdiff",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may ask: lines 'NAME TOKEN'.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="For TLS, with --key.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Of the certificate.")] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append who asked what when, as JSON lines.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Of the engine; else as many as it takes.")
    ] = None,
    deadline: Annotated[float, typer.Option(min=0.01, help="Seconds that an answer may take.")] = 30.0,
) -> None:
    """Answer a web page (/), raw patients (/predict), the KServe protocol (/v2), /health and /metrics, until
    SIGTERM.

    \b
    Example:
      robustmdiff serve exported --audit audit.jsonl
    """
    if not all(map(find_spec, NEEDED)):
        raise Refusal(
            f"serve needs {', '.join(NEEDED)}, expected them installed (pip install 'robustmdiff[serve]')"
        )
    if (certificate is None) != (key is None):
        raise Refusal("--certificate and --key go together, expected both or none")
    if token_file is None and not _is_loopback(host):
        raise Refusal(f"--host is {host} without --token-file, expected one: whoever reaches it could ask")

    from robustmdiff.serving.app import make_app
    from robustmdiff.serving.audit import Audit
    from robustmdiff.serving.door import Door
    from robustmdiff.serving.limits import Limits
    from robustmdiff.serving.metrics import Metrics
    from robustmdiff.serving.serve import run as listen
    from robustmdiff.serving.served import Served
    from robustmdiff.serving.tokens import Tokens

    limits, metrics = Limits(seconds=deadline), Metrics()
    tokens = Tokens.load(token_file) if token_file is not None else None
    record = Audit(audit) if audit is not None else None
    *older, last = artefacts
    attribute = _attribute(run, last, threads) if run else None
    generate = _generate(generator, last, threads) if generator else None
    observed = metrics.batch.observe
    versions = [Served.load(folder, threads, limits, observed) for folder in older]
    versions.append(Served.load(last, threads, limits, observed, attribute, generate))
    for served, folder in zip(versions, artefacts, strict=True):
        print(f"{name} version {served.version}: {folder}", flush=True)
    door = Door(name, limits, metrics, tokens, record)
    listen(make_app(versions, door), host, port, limits, certificate, key)


def _attribute(run: Path, folder: Path, threads: int | None) -> Attribute:
    """What tells pixels and words of the run that the folder was exported from. Raises Refusal."""
    _need("--run", run, EXPLAINING)
    import torch

    from robustmdiff.experiment.run import load_run
    from robustmdiff.explanation.attributed import attributor
    from robustmdiff.export.card import check_made_of
    from robustmdiff.export.graph import check_exportable

    model = check_exportable(load_run(run).model)
    check_made_of(folder, run)
    if threads is not None:
        torch.set_num_threads(threads)
    return attributor(model)


def _generate(generator: Path, folder: Path, threads: int | None) -> Generate:
    """What makes modalities of the folder's patients. Raises Refusal."""
    _need("--generator", generator, GENERATING)
    import torch

    from robustmdiff import __version__
    from robustmdiff.generation.imagined import Imaginer
    from robustmdiff.generation.pretrained import digest, load_generator
    from robustmdiff.runtime.manifest import Manifest

    model = load_generator(generator / "model")
    if threads is not None:
        torch.set_num_threads(threads)
    provenance = {
        "model": type(model).__name__,
        "version": __version__,
        "model_sha256": digest(generator / "model"),
    }
    return Imaginer(model, Manifest.load(folder).task, provenance)


def _need(option: str, run: Path, packages: Sequence[str]) -> None:
    if missing := [name for name in packages if find_spec(name) is None]:
        raise Refusal(
            f"{option} is {run} and needs {' and '.join(missing)}, expected installed "
            "(pip install 'robustmdiff[train]')"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
