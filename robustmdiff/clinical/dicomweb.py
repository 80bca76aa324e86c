"""A study on a DICOMweb server: its series (QIDO-RS), their instances (WADO-RS), the report back (STOW-RS).

Messages name the number of a series and what the server said, never an address: it has the patient's UIDs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from robustmdiff.clinical.code_map import CodeMap
from robustmdiff.clinical.dicom_images import UID, modality_of, silently
from robustmdiff.data.pictures.dicom_series import NOT_IMAGES
from robustmdiff.data.task import Task
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from pydicom import Dataset

MOST_INSTANCES = 4096  # of a series
SECONDS = 60  # that the server may be silent
ROWS = "00280010"
AS_STORED = (("application/dicom", "*"),)  # in whichever transfer syntax


@dataclass(frozen=True)
class Study:
    """url     of the server, as it serves /studies under it
    uid     the Study Instance UID
    series  the Series Instance UIDs that are read; of none, all
    token   for 'Authorization: Bearer', where the server asks for one
    """

    url: str
    uid: str
    series: Sequence[str] = ()
    token: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise Refusal("the address of the DICOMweb server begins otherwise, expected http:// or https://")
        if not all(UID.fullmatch(uid) for uid in (self.uid, *self.series)):
            raise Refusal("a UID of study or series is none, expected digits and dots, at most 64")

    def _client(self) -> DICOMwebClient:
        from dicomweb_client import DICOMwebClient

        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        client = DICOMwebClient(self.url, headers=headers, timeout=SECONDS)
        client.set_http_retry_params(retry=False)
        return client

    def fetch(self, folder: Path, task: Task, code_map: CodeMap) -> tuple[list[Path], list[str]]:
        """Into `folder`, a folder for each series that is a modality of the task; and a note for each that is
        none. Raises Refusal where the server does not answer, or has no series for the task."""
        from pydicom import Dataset

        paths, notes = [], []
        with _talking(), silently():
            client = self._client()
            found = [Dataset.from_json(each) for each in client.search_for_series(self.uid)]
            for n, header in enumerate(found, 1):
                if self.series and header.SeriesInstanceUID not in self.series:
                    continue
                name = f"series {n} of {len(found)}"
                if self._is_for(client, header, task, code_map):
                    paths.append(folder / name)
                    self._fetch(client, header.SeriesInstanceUID, paths[-1])
                else:
                    kind = header.get("Modality")
                    notes.append(f"{name}: has Modality {kind!r}, which the model does not read; not used")
        if not paths:
            images = ", ".join(each.name for each in task.of_kind("image"))
            raise Refusal(
                f"the study on the DICOMweb server has {len(found)} series and none that the model reads, "
                f"expected {images or 'a model that reads images'}"
            )
        return paths, notes

    def _is_for(self, client: DICOMwebClient, series: Dataset, task: Task, code_map: CodeMap) -> bool:
        """Whether its instances are images, which reports and the like are not, of a modality of the task."""
        if series.get("Modality") in NOT_IMAGES or modality_of(series, task, code_map) is None:
            return False
        some = client.search_for_instances(self.uid, series.SeriesInstanceUID, limit=1)
        return bool(some) and ROWS in some[0]

    def _fetch(self, client: DICOMwebClient, series: str, folder: Path) -> None:
        folder.mkdir()
        for i, instance in enumerate(client.iter_series(self.uid, series, media_types=AS_STORED), 1):
            if i > MOST_INSTANCES:
                raise Refusal(f"{folder.name}: has more instances, expected {MOST_INSTANCES} at most")
            instance.save_as(folder / f"{i}.dcm", enforce_file_format=True)

    def store(self, report: bytes) -> None:
        """A DICOM file. Raises Refusal where the server does not take it."""
        from pydicom import dcmread

        with _talking(), silently():
            said = self._client().store_instances([dcmread(BytesIO(report))], self.uid)
            failed = said.get("FailedSOPSequence") or ()
        if failed:
            reason = failed[0].get("FailureReason", "no reason")
            raise Refusal(f"the DICOMweb server has not stored the report ({reason}), expected it to")


@contextmanager
def _talking() -> Iterator[None]:
    """Raises Refusal for what goes wrong on the way; the client's own message has the whole address."""
    from requests import HTTPError, RequestException

    try:
        yield
    except HTTPError as error:
        status = None if error.response is None else error.response.status_code
        raise Refusal(f"the DICOMweb server said {status}, expected 200") from None
    except RequestException as error:
        kind = type(error).__name__
        raise Refusal(f"the DICOMweb server does not answer ({kind}), expected one at this address") from None
