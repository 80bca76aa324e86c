"""A raw patient in a request: {modality: text, values, or an image as base64}, in JSON or as multipart.

There is no place for who the patient is. Messages say what was expected and quote nothing of what came: what
a library says of a file may quote the file.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from robustmdiff.data.collate import Collator
from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import JSON, PLAIN
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Observation, Patient
from robustmdiff.data.pictures.dicom_series import DEFLATED
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.task import Task
from robustmdiff.serving.kserve import read_json
from robustmdiff.serving.limits import Limits, Refused

ANONYMOUS = ""


def from_json(body: bytes, collator: Collator, limits: Limits) -> Patient:
    """Raises Refused."""
    given = read_json(body, "the patient")
    if not isinstance(given, dict):
        raise Refused(400, f"the patient is no JSON object, expected one of {_named(collator.task)}")
    return _patient(given, collator, limits)


async def parts_of(body: bytes, headers: Headers, limits: Limits) -> dict[str, str | bytes]:
    """The parts of a multipart body, by name; never on a disk. Raises Refused."""

    async def stream() -> Any:
        yield body

    many = 100
    parser = MultiPartParser(headers, stream(), max_files=many, max_fields=many, max_part_size=limits.body)
    parser.spool_max_size = limits.body + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError):
        raise Refused(400, "the body is not multipart/form-data that can be read") from None
    found: dict[str, str | bytes] = {}
    for name, part in form.multi_items():
        if name in found:
            raise Refused(400, "a part comes twice, expected one for each modality")
        found[name] = await part.read() if isinstance(part, UploadFile) else part
    return found


def from_parts(parts: Mapping[str, str | bytes], collator: Collator, limits: Limits) -> Patient:
    """A text as it is, values as JSON, an image as its file. Raises Refused."""
    media = {modality.name: KINDS[modality.kind].media for modality in collator.task.modalities}
    given: dict[str, Any] = {}
    for name, part in parts.items():
        content = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        if media.get(name) == JSON:
            given[name] = read_json(content, name)
        elif media.get(name) == PLAIN:
            try:
                given[name] = content.decode()
            except UnicodeDecodeError:
                raise Refused(400, f"{name}: is not in UTF-8") from None
        else:
            given[name] = content
    return _patient(given, collator, limits)


def _patient(given: Mapping[str, Any], collator: Collator, limits: Limits) -> Patient:
    known = {modality.name: modality for modality in collator.task.modalities}
    if not given.keys() <= known.keys():
        raise Refused(422, f"a modality is not one of this model, expected some of {_named(collator.task)}")
    observed: dict[str, Observation] = {}
    for name, observation in given.items():
        if observation is None:
            continue
        modality = known[name]
        try:
            observed[name] = _read(observation, modality, limits)
            collator([Patient(ANONYMOUS, {name: observed[name]})])
        except (DataError, OverflowError):  # the latter of a number of very many digits
            expected = KINDS[modality.kind].expected(modality)
            raise Refused(422, f"{name}: is not what the model takes, expected {expected}") from None
    return Patient(ANONYMOUS, observed)


def _named(task: Task) -> str:
    return ", ".join(task.modality_names)


def _read(given: Any, modality: Modality, limits: Limits) -> Any:
    kind = KINDS[modality.kind]
    if kind.media == PLAIN:
        return _text(given, modality, limits)
    return kind.from_json(given) if kind.media == JSON else _file(given, modality)


def _text(given: Any, modality: Modality, limits: Limits) -> Any:
    if isinstance(given, str):
        if len(given) > limits.text:
            raise Refused(413, f"{modality.name}: is too long, expected at most {limits.text} characters")
        if any("\ud800" <= c <= "\udfff" for c in given):
            raise Refused(400, f"{modality.name}: holds half a character, expected Unicode text")
    return given


def _file(given: Any, modality: Modality) -> Any:
    kind = KINDS[modality.kind]
    if isinstance(given, str):
        try:
            given = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            given = None
    if not isinstance(given, bytes):
        raise Refused(422, f"{modality.name}: is no base64, expected {kind.expected(modality)}")
    with tempfile.NamedTemporaryFile(prefix="image-", dir=_memory()) as file:
        file.write(given)
        file.flush()
        if _is_deflated(Path(file.name)):
            raise Refused(422, f"{modality.name}: is a deflated DICOM file, expected another transfer syntax")
        try:
            return kind.from_file(Path(file.name), modality)
        except Unreadable as error:
            ours = error.__cause__ is None or isinstance(error.__cause__, ModuleNotFoundError)
            said = str(error) if ours else f"is not {kind.expected(modality)}"
            raise Refused(422, f"{modality.name}: {said}") from None


def _is_deflated(path: Path) -> bool:
    """Such a DICOM file is inflated whole, up to a thousandfold, before anything of it can be known."""
    try:
        from pydicom.filereader import read_file_meta_info

        return read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED
    except Exception:  # whatever is wrong with it, its reader says
        return False


def _memory() -> str | None:
    """Where a file is in memory alone, where the machine has such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
