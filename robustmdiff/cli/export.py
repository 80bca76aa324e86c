"""`robustmdiff export`: a run as a folder that needs no torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from robustmdiff.cli.arguments import AsJson, RunFolder
from robustmdiff.cli.show import show
from robustmdiff.refusal import Refusal


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write it.")],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="onnx; tensorrt, aoti: built of it as well; triton-server.")
    ] = "onnx",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Export nothing: ask the folder and the run the same, and compare."),
    ] = False,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Sign what is written with this private key (EC, PEM)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The whole of a model (encoders, sampler, head, temperature, prediction sets) as one file, with what
    prepares its inputs: `robustmdiff.runtime` answers with it where there is no torch.

    What is written is compared with the run, under every subset of what some test patients have.

    \b
    Example:
      robustmdiff export runs/mine --out exported
    """
    needs = ("onnx", "onnxruntime", "onnxscript")
    if missing := [name for name in needs if find_spec(name) is None]:
        raise Refusal(
            f"export needs {' and '.join(missing)}, expected installed (pip install 'robustmdiff[export]')"
        )
    from robustmdiff.export.export import export_run
    from robustmdiff.export.parity import check, compare
    from robustmdiff.export.triton_server import write_repository
    from robustmdiff.predictor import Predictor
    from robustmdiff.runtime import signature
    from robustmdiff.runtime.artefact import ENGINES, Artefact
    from robustmdiff.runtime.manifest import Manifest

    if sign is not None:
        if verify:
            raise Refusal(f"--sign is {sign} with --verify, which writes nothing, expected one of them")
        signature.check_key(sign)
    predictor = Predictor.from_pretrained(run)
    if to == "triton-server":
        write_repository(predictor.run, out)
        if sign is not None:
            signature.sign(out, sign)
        show({"wrote": str(out)}, as_json)
        return
    if not verify:
        export_run(predictor.run, out, to=to)
    parities = {}
    for engine in (name for name in Manifest.load(out).files_of_engines() if name in ENGINES):
        parities[engine] = compare(predictor, Artefact.load(out, engine=engine))
        check(parities[engine], out)
    if sign is not None:
        signature.sign(out, sign)
    if as_json:
        found = {engine: parity._asdict() for engine, parity in parities.items()}
        show({"folder": str(out), "engines": found}, as_json)
    for engine, parity in parities.items() if not as_json else ():
        print(
            f"{'verified' if verify else 'wrote'} {out}, {engine}: {parity.views} views of {parity.people} "
            f"patients, probabilities differ by at most {parity.largest:.1g} from the run's, {parity.sets} "
            "prediction sets do"
        )
