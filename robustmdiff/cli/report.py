"""`robustmdiff report`: a patient from DICOM or FHIR, the answer as DICOM SR or FHIR."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from robustmdiff.cli.arguments import AsJson, Device, Draws, RunFolder, Seed
from robustmdiff.cli.show import NOTHING_KNOWN, show
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from robustmdiff.answer import Answer
    from robustmdiff.clinical.code_map import CodeMap
    from robustmdiff.clinical.dicomweb import Study
    from robustmdiff.clinical.received import Received
    from robustmdiff.data.task import Task


def report(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The report to write.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="sr: DICOM SR (TID 1500); fhir: R4B.")],
    dicom: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A DICOM file, or the folder of a series; may be repeated."),
    ] = None,
    fhir: Annotated[Path | None, typer.Option(metavar="FILE", help="A FHIR bundle (R4, R4B; JSON).")] = None,
    dicomweb: Annotated[
        str | None, typer.Option(metavar="URL", help="A DICOMweb server that has the study, with --study.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="The Study Instance UID.")] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="UID", help="A Series Instance UID; may be repeated; else all of the study."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A bearer token for the DICOMweb server.")
    ] = None,
    store: Annotated[bool, typer.Option("--store", help="Store the SR back in the study.")] = False,
    code_map: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="Which code is which field (JSON).")
    ] = None,
    draws: Draws = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Diagnose one patient of DICOM files or of a study on a DICOMweb server, of a FHIR bundle or of both,
    and report the answer in one of these formats.

    \b
    Example:
      robustmdiff report runs/mine --dicom chest.dcm --to sr --out sr.dcm
    """
    answer, notes = report_run(
        run,
        out,
        to,
        dicom=dicom or (),
        fhir=fhir,
        study=_study(dicomweb, study, series or (), token_file),
        store=store,
        code_map=code_map,
        draws=draws,
        seed=seed,
        device=device,
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
    study: Study | None = None,
    store: bool = False,
    code_map: Path | None = None,
    draws: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Answer, list[str]]:
    """The answer that the report has, and a sentence for whatever came and was not used."""
    from robustmdiff.clinical import fhir_report, structured_report
    from robustmdiff.clinical.code_map import read_code_map
    from robustmdiff.clinical.model_record import record_of
    from robustmdiff.predictor import Predictor
    from robustmdiff.whole import write_whole

    needed = ("fhir", "highdicom") if study is None else ("fhir", "highdicom", "dicomweb_client")
    if not all(map(find_spec, needed)):
        raise Refusal(
            f"report needs {', '.join(needed)}, expected them installed (pip install 'robustmdiff[clinical]')"
        )
    if to not in ("sr", "fhir"):
        raise Refusal(f"--to is {to!r}, expected sr or fhir")
    if to == "sr" and not dicom and study is None:
        raise Refusal(
            "--to is 'sr', expected --dicom or --dicomweb with the images whose study the report belongs to"
        )
    if dicom and study is not None:
        raise Refusal("--dicom and --dicomweb are both given, expected one of them")
    if store and (study is None or to != "sr"):
        raise Refusal("--store is given, expected --dicomweb and --to sr with it")
    predictor = Predictor.from_pretrained(folder, device)
    columns = read_code_map(code_map, predictor.task)
    with TemporaryDirectory(prefix="study-") as fetched:
        notes: list[str] = []
        if study is not None:
            dicom, notes = study.fetch(Path(fetched), predictor.task, columns)
        received = _receive(predictor.task, dicom, fhir, columns)
        patient = received.patient(predictor.task, (fhir or dicom[0]).name)
        answer, model = predictor.diagnose(patient, draws=draws, seed=seed), record_of(predictor)
    if to == "sr":
        document = structured_report.structured_report(answer, model, received.evidence)
        content = structured_report.to_bytes(document)
    else:
        bundle = fhir_report.fhir_report(answer, model, received.subject, received.studies)
        content = fhir_report.to_bytes(bundle)
    write_whole(out, content)
    if store and study is not None:
        study.store(content)
    return answer, [*notes, *received.notes]


def _study(url: str | None, uid: str | None, series: Sequence[str], token_file: Path | None) -> Study | None:
    if (url is None) != (uid is None):
        raise Refusal("--dicomweb and --study go together, expected both or none")
    if url is None or uid is None:
        if series or token_file is not None:
            raise Refusal("--series and --token-file are of a DICOMweb server, expected --dicomweb")
        return None
    from robustmdiff.clinical.dicomweb import Study

    token = token_file.read_text(encoding="utf-8").strip() if token_file is not None else None
    return Study(url, uid, series, token)


def _receive(task: Task, dicom: Sequence[Path], fhir: Path | None, code_map: CodeMap) -> Received:
    from robustmdiff.clinical.dicom_images import read_dicom
    from robustmdiff.clinical.fhir_record import read_fhir
    from robustmdiff.clinical.received import joined

    images = read_dicom(dicom, task, code_map) if dicom else None
    record = read_fhir(fhir, code_map) if fhir is not None else None
    if images is not None and record is not None:
        return joined(images, record)
    received = images or record
    if received is None:
        raise Refusal("neither --dicom, --dicomweb nor --fhir is given, expected one of them")
    return received
