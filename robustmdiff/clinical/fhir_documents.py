"""FHIR reports, documents and media as the texts and images of a task."""

from __future__ import annotations

import tempfile
from base64 import b64decode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from robustmdiff.clinical.code_map import CodeMap, names_of
from robustmdiff.clinical.fhir_bundle import PatientBundle, Resource, latest, when
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.pictures.read import read_image

USABLE = ("final", "amended", "corrected", "appended", "current", "completed")
IS_OF = {"DiagnosticReport": ("code",), "DocumentReference": ("type",), "Media": ("modality", "view")}


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image whose file came inside a bundle: a `StoredImage` of a patient. It lies in a file of its own
    only while it is decoded, readable by its owner alone."""

    content: bytes
    modality: Modality
    where: str

    def pixels(self) -> np.ndarray:
        """float32 of the modality's shape. Raises DataError for bytes that are no image."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "media"
            path.write_bytes(self.content)
            try:
                return read_image(path, self.modality)
            except Unreadable as error:
                raise DataError(f"{self.where} {error}") from error


class Documents(NamedTuple):
    """observed  of each text modality its text, of each image modality its image
    notes     a sentence for whatever was not used
    """

    observed: dict[str, str | EmbeddedImage]
    notes: list[str]


def documents_of(bundle: PatientBundle, code_map: CodeMap) -> Documents:
    """The texts and pictures of a bundle by modality, the latest of several. Raises DataError, naming the
    entry, where none is the latest, for a text that is not in its charset and for content that is not
    base64."""
    texts: dict[str, list[tuple[Resource, str]]] = defaultdict(list)
    images: dict[str, list[tuple[Resource, EmbeddedImage]]] = defaultdict(list)
    notes: list[str] = []
    for resource in bundle.of_kind("DiagnosticReport", "DocumentReference", "Media"):
        content = resource.content
        if content["status"] not in USABLE:
            notes.append(f"{resource.where} is {content['status']!r} and is not used, expected it final")
            continue
        kind = "image" if resource.kind == "Media" else "text"
        concepts = [content[key] for key in IS_OF[resource.kind] if key in content]
        column = code_map.column(names_of(concepts), kind)
        if column is None:
            notes.append(f"{resource.where} is no {kind} of the task, by code or by text")
        elif kind == "image":
            data = _content(content["content"], "image/", resource, notes)
            if data is not None:
                image = EmbeddedImage(data, column.modality, resource.where)
                images[column.modality.name].append((resource, image))
        else:
            text = _text(resource, notes)
            if text is not None:
                texts[column.modality.name].append((resource, text))
    observed: dict[str, str | EmbeddedImage] = {n: _latest(n, found, notes) for n, found in texts.items()}
    observed |= {n: _latest(n, found, notes) for n, found in images.items()}
    return Documents(observed, notes)


Found = TypeVar("Found")


def _latest(name: str, found: Sequence[tuple[Resource, Found]], notes: list[str]) -> Found:
    if len(found) > 1:
        notes.append(f"{name}: of {len(found)} documents the latest is used")
    timed = [(each, when(resource.content)) for resource, each in found]
    return latest(timed, f"{found[0][0].where}: {name!r}")


def _text(resource: Resource, notes: list[str]) -> str | None:
    """A report's conclusion and its attached plain texts; None where there is neither."""
    content = resource.content
    attached = list(content.get("presentedForm", ()))
    attached += [part["attachment"] for part in content.get("content", ())]
    texts = [content["conclusion"]] if "conclusion" in content else []
    for attachment in attached:
        data = _content(attachment, "text/plain", resource, notes)
        if data is not None:
            texts.append(_decoded(data, attachment["contentType"], resource))
    if not texts and not attached:
        notes.append(f"{resource.where} has neither a conclusion nor an attachment")
    return "\n".join(texts) if texts else None


def _content(attachment: Mapping[str, Any], kind: str, resource: Resource, notes: list[str]) -> bytes | None:
    """What an attachment holds; None, with a note, where that is of another kind or lies elsewhere."""
    given = attachment.get("contentType", "")
    allowed = (kind, "application/dicom") if kind == "image/" else (kind,)
    if not given.startswith(allowed):
        notes.append(f"{resource.where} has an attachment of {given or 'no content type'}, expected {kind}")
        return None
    if "data" not in attachment:
        notes.append(f"{resource.where} has an attachment that lies elsewhere, expected its data")
        return None
    try:
        return b64decode("".join(attachment["data"].split()), validate=True)
    except ValueError as error:
        raise DataError(f"{resource.where}: has an attachment that is not base64, expected it") from error


def _decoded(data: bytes, content_type: str, resource: Resource) -> str:
    header = Message()
    header["content-type"] = content_type
    charset = header.get_content_charset("utf-8")
    try:
        return data.decode(charset)
    except (LookupError, UnicodeDecodeError) as error:
        raise DataError(f"{resource.where}: has a text that is not in {charset}, expected it") from error
