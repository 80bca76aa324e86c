"""`robustmdiff export`: a run as a folder that needs no torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, RunFolder
from robustmdiff.cli.show import show
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.export.verify import Verified


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write it.")],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="onnx; tensorrt, aoti, openvino: as well; triton-server.")
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(metavar="PRECISION", help="Of its layers: fp32, fp16, bf16, or int8 (not to aoti)."),
    ] = "fp32",
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="FORM", help="Of the chain: loop, unrolled; single-step: as three graphs, as well."
        ),
    ] = None,
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
    from robustmdiff.export.triton_server import write_repository
    from robustmdiff.export.verify import verified
    from robustmdiff.predictor import Predictor
    from robustmdiff.runtime import signature

    if sign is not None:
        if verify:
            raise Refusal(f"--sign is {sign} with --verify, which writes nothing, expected one of them")
        signature.check_key(sign)
    predictor = Predictor.from_pretrained(run)
    if to == "triton-server":
        if precision != "fp32":
            raise Refusal(f"export: precision is {precision!r} to triton-server, expected fp32")
        if sampler is not None:
            raise Refusal(
                f"export: sampler is {sampler!r} to triton-server, expected none, for the usual one"
            )
        write_repository(predictor.run, out)
        if sign is not None:
            signature.sign(out, sign)
        show({"wrote": str(out)}, as_json)
        return
    if not verify:
        export_run(predictor.run, out, to=to, precision=precision, sampler=sampler)
    engines = verified(predictor, out)
    if sign is not None:
        signature.sign(out, sign)
    if as_json:
        show({"folder": str(out), "engines": {name: _json(each) for name, each in engines.items()}}, as_json)
    for name, each in engines.items() if not as_json else ():
        print(f"{'verified' if verify else 'wrote'} {out}, {name}: {_said(each)}")


def _json(found: Verified | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {**found.parity._asdict(), "changed": found.changed and found.changed._asdict()}


def _said(found: Verified | None) -> str:
    if found is None:
        return "it was built, and cannot be run on this machine"
    parity, changed = found
    said = (
        f"{parity.views} views of {parity.people} patients, probabilities differ by at most "
        f"{parity.largest:.1g} from the run's, {parity.sets} prediction sets do"
    )
    if changed is None:
        return said
    return f"{said}; macro AUROC changes by {changed.auroc:+.4f}, coverage by {changed.coverage:+.3f}"
