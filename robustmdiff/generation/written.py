"""What was generated, in files that say so, each with the record of what it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustmdiff.data.files import file_name
from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.write import SYNTHETIC, to_dicom, to_nifti, to_png
from robustmdiff.data.task import Task
from robustmdiff.generation.medm2g import Made
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

FORMATS = ("png", "nii", "dcm")


def write_made(
    made: Made, task: Task, folder: Path, formats: Sequence[str], provenance: Mapping[str, Any]
) -> list[Path]:
    """Writes each draw of each modality as synthetic-PATIENT-MODALITY-NUMBER, and beside it the same name
    with .json: what made it, of what.

    formats     of images, some of FORMATS; of several channels DICOM has a file each. A text is a .txt.
    provenance  what is the same for all, in JSON's types: the model and its SHA-256, the seed

    Returns the files without their records. Each appears whole or not at all.
    """
    for name in formats:
        if name not in FORMATS:
            raise Refusal(f"format is {name!r}, expected one of {', '.join(FORMATS)}")
    written = []
    for name, draws in made.made.items():
        for number, drawn in enumerate(draws, start=1):
            parts = (SYNTHETIC, made.patient, name, str(number))
            stem = file_name("-".join(part for part in parts if part).lower())
            record = {
                SYNTHETIC: True,
                "modality": name,
                "draw": number,
                "how": made.how[name],
                "given": list(made.given),
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
                **provenance,
            }
            says = f"{made.how[name]}, seed {provenance.get('seed')}, draw {number}"
            for suffix, content in _files(drawn, task.modality(name), formats, says).items():
                path = folder / f"{stem}{suffix}"
                write_whole(path, content)
                record["sha256"] = hashlib.sha256(content).hexdigest()
                write_whole(folder / f"{stem}{suffix}.json", json.dumps(record, indent=1).encode())
                written.append(path)
    return written


def _files(drawn: Any, modality: Modality, formats: Sequence[str], says: str) -> dict[str, bytes]:
    """By suffix."""
    if isinstance(drawn, str):
        return {".txt": f"{drawn}\n".encode()}
    files = {}
    if "png" in formats:
        files[".png"] = to_png(drawn, modality, {"Comment": says})
    if "nii" in formats:
        files[".nii.gz"] = to_nifti(drawn, modality, says)
    if "dcm" in formats:
        captures = to_dicom(drawn, modality, says)
        several = len(captures) > 1
        files |= {f"-{i}.dcm" if several else ".dcm": each for i, each in enumerate(captures, start=1)}
    return files
