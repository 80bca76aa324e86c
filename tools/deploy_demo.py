"""The run of `make demo` all the way to a hospital, on a machine without a GPU (`make deploy-demo`).

    python -m tools.deploy_demo

Export to ONNX with its papers and a TensorRT-RTX engine; serve it and ask it with NVIDIA's client; diagnose
from a DICOM image and write a DICOM SR. The export has to say what the run says, and the server what the
export says. What was in runs/deploy is replaced.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

RUN, OUT = Path("runs/demo"), Path("runs/deploy")
EXPORTED, XRAY, MAP, SR = OUT / "exported", OUT / "xray.dcm", OUT / "map.json", OUT / "sr.dcm"
CLOSE = 1e-6  # of two answers of one engine, whose batches may differ
WHAT = {
    EXPORTED: "the model without torch: load it with robustmdiff.runtime.Artefact",
    EXPORTED / "model.onnx": "the graph",
    EXPORTED / "model.engine": "the TensorRT-RTX engine; built, not run: there is no GPU here",
    EXPORTED / "model_card.json": "intended use, populations, thresholds, subgroups",
    EXPORTED / "bom.cdx.json": "what it consists of (CycloneDX)",
    OUT / "serve.log": "what the server said",
    XRAY: "a patient of the built-in cohort, as a scanner sends it",
    SR: "what the model says of the patient: DICOM SR, TID 1500",
}


@contextmanager
def step(what: str) -> Iterator[None]:
    print(f"{what} ...", flush=True)
    began = time.monotonic()
    yield
    print(f"  {time.monotonic() - began:.0f} s", flush=True)


def exported(predictor: Any) -> Any:
    """The `Artefact`, which says what the run says."""
    from robustmdiff.export.export import export_run
    from robustmdiff.export.parity import check, compare
    from robustmdiff.runtime import Artefact

    export_run(predictor.run, EXPORTED, to="tensorrt")
    artefact = Artefact.load(EXPORTED)
    parity = compare(predictor, artefact, predictor.patients()[:2])
    check(parity, EXPORTED)
    print(f"  {parity.views} views of {parity.people} patients differ by at most {parity.largest:.0e}")
    return artefact


@contextmanager
def server() -> Iterator[str]:
    """The address of `robustmdiff serve`, until it is asked to end."""
    command = [sys.executable, "-m", "robustmdiff", "serve", str(EXPORTED), "--port", "0"]
    with (OUT / "serve.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _address(process)
            process.send_signal(signal.SIGTERM)
            if process.wait(30) != 0:
                raise SystemExit(f"the server ended with {process.returncode}, expected 0")
        finally:
            process.kill()


def _address(process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        said = (OUT / "serve.log").read_text(encoding="utf-8")
        if found := re.search(r"running on http://(\S+)", said):
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"the server did not start: {(OUT / 'serve.log').read_text(encoding='utf-8')}")


def asked(address: str, artefact: Any, patient: Any) -> np.ndarray:
    """What the server says of a patient, by the KServe protocol: the probabilities."""
    from tritonclient.http import InferenceServerClient, InferInput
    from tritonclient.utils import np_to_triton_dtype

    from robustmdiff.runtime.inputs import feed

    inputs = []
    for name, x in feed(artefact.collator([patient]), artefact.task).items():
        inputs.append(InferInput(name, x.shape, np_to_triton_dtype(x.dtype)))
        inputs[-1].set_data_from_numpy(x)
    client = InferenceServerClient(address)
    said = client.infer("robustmdiff", inputs).as_numpy("probability")[0]
    client.close()
    return said


def write_xray(patient: Any) -> None:
    """The patient's X-ray as a DICOM file of 16 bits: shares of full scale are counts."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    counts = np.round(np.clip(patient.modalities["xray"][0], 0, 1) * 65535).astype("<u2")
    image, image.file_meta = Dataset(), FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = DigitalXRayImageStorageForPresentation
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientName, image.PatientID, image.Modality = "Built-in^Patient", patient.id, "DX"
    image.Rows, image.Columns = counts.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PixelData = counts.tobytes()
    image.save_as(XRAY, enforce_file_format=True)


def main() -> None:
    from robustmdiff.cli.report import report_run
    from robustmdiff.predictor import Predictor

    if not (RUN / "conformal.json").exists():
        raise SystemExit(f"{RUN}: holds no finished run, expected that of `make demo`")
    began = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    with step("Export: one ONNX graph, its papers, a TensorRT-RTX engine"):
        predictor = Predictor.from_pretrained(RUN)
        artefact = exported(predictor)
    patient = next(patient for patient in predictor.patients() if patient.has("xray"))
    with step("Serve, and ask with tritonclient"), server() as address:
        said, expected = asked(address, artefact, patient), artefact.diagnose(patient)
        apart = float(np.abs(said - [*expected.probability.values()]).max())
        if not apart <= CLOSE:
            raise SystemExit(f"the server's answer differs by {apart}, expected at most {CLOSE}")
        print(f"  {address}: {artefact.task.classes[said.argmax()]}, {said.max():.3f}")
    with step("DICOM in, DICOM SR out"):
        write_xray(patient)
        MAP.write_text(json.dumps({"xray": {"codes": ["DX"]}}), encoding="utf-8")
        answer, _ = report_run(RUN, SR, "sr", dicom=[XRAY], code_map=MAP)
        print(f"  by the X-ray alone: {', '.join(answer.prediction)}")
    print(f"\nIn {time.monotonic() - began:.0f} s:")
    for path, what in WHAT.items():
        size = f"{path.stat().st_size:,} bytes; " if path.is_file() else ""
        print(f"  {path}  {size}{what}")


if __name__ == "__main__":
    main()
