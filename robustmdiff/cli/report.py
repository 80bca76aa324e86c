"""`robustmdiff report`: a patient from DICOM or FHIR, the answer as DICOM SR or FHIR."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustmdiff.cli.arguments import AsJson, Device, Draws, RunFolder, Seed
from robustmdiff.cli.show import NOTHING_KNOWN, show
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.answer import Answer
    from robustmdiff.clinical.received import Received
    from robustmdiff.predictor import Predictor


def report(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The report to write.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="sr: DICOM SR (TID 1500); fhir: R4B.")],
    dicom: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A DICOM file, or the folder of a series; may be repeated."),
    ] = None,
    fhir: Annotated[Path | None, typer.Option(metavar="FILE", help="A FHIR bundle (R4, R4B; JSON).")] = None,
    code_map: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="Which code is which field (JSON).")
    ] = None,
    draws: Draws = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Diagnose one patient of DICOM files, of a FHIR bundle or of both, and report the answer in one of
    these formats.

    \b
    Example:
      robustmdiff report runs/mine --dicom chest.dcm --to sr --out sr.dcm
    """
    answer, notes = report_run(
        run, out, to, dicom=dicom or (), fhir=fhir, code_map=code_map, draws=draws, seed=seed, device=device
    )
    if answer.nothing_known:
        print(f"the patient: {NOTHING_KNOWN}", file=sys.stderr)
    if as_json:
        told = {"missing": list(answer.missing), "nothing_known": answer.nothing_known, "notes": notes}
        show({"out": str(out)} | told, as_json)
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"wrote {out}")


def report_run(
    folder: str | Path,
    out: Path,
    to: str,
    *,
    dicom: Sequence[Path] = (),
    fhir: Path | None = None,
    code_map: Path | None = None,
    draws: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Answer, list[str]]:
    """The answer that the report has, and a sentence for whatever came and was not used."""
    from robustmdiff.clinical import fhir_report, structured_report
    from robustmdiff.clinical.model_record import record_of
    from robustmdiff.predictor import Predictor
    from robustmdiff.whole import write_whole

    if not all(map(find_spec, ("fhir", "highdicom"))):
        raise Refusal(
            "report needs fhir.resources and highdicom, expected them installed (pip install "
            "'robustmdiff[clinical]')"
        )
    if to not in ("sr", "fhir"):
        raise Refusal(f"--to is {to!r}, expected sr or fhir")
    if to == "sr" and not dicom:
        raise Refusal("--to is 'sr', expected --dicom with the images whose study the report belongs to")
    predictor = Predictor.from_pretrained(folder, device)
    received = _receive(predictor, dicom, fhir, code_map)
    patient = received.patient(predictor.task, (fhir or dicom[0]).name)
    answer, model = predictor.diagnose(patient, draws=draws, seed=seed), record_of(predictor)
    if to == "sr":
        document = structured_report.structured_report(answer, model, received.evidence)
        write_whole(out, structured_report.to_bytes(document))
    else:
        bundle = fhir_report.fhir_report(answer, model, received.subject, received.studies)
        write_whole(out, fhir_report.to_bytes(bundle))
    return answer, list(received.notes)


def _receive(
    predictor: Predictor, dicom: Sequence[Path], fhir: Path | None, map_file: Path | None
) -> Received:
    from robustmdiff.clinical.code_map import read_code_map
    from robustmdiff.clinical.dicom_images import read_dicom
    from robustmdiff.clinical.fhir_record import read_fhir
    from robustmdiff.clinical.received import joined

    code_map = read_code_map(map_file, predictor.task)
    images = read_dicom(dicom, predictor.task, code_map) if dicom else None
    record = read_fhir(fhir, code_map) if fhir is not None else None
    if images is not None and record is not None:
        return joined(images, record)
    received = images or record
    if received is None:
        raise Refusal("neither --dicom nor --fhir is given, expected one of them")
    return received
