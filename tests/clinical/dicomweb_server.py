"""A DICOMweb server on loopback, of a list of DICOM files: the little of QIDO-RS, WADO-RS and STOW-RS that a
report needs (PS3.18)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from pydicom import Dataset, dcmread

SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription", "StudyInstanceUID")
INSTANCE = (*SERIES, "SOPClassUID", "SOPInstanceUID", "Rows", "Columns")
TOKEN = "correct-horse-battery"


class Archive(ThreadingHTTPServer):
    """files    what it has
    stored   what it was sent
    refuses  a FailureReason: nothing is stored
    """

    daemon_threads = True

    def __init__(self, files: list[Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.stored = list(files), []
        self.refuses: int | None = None
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dicom-web"

    def having(self, keyword: str, uid: str) -> list[Path]:
        return [file for file in self.files if dcmread(file).get(keyword) == uid]


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def log_message(self, *given) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send_error(401)
        elif found := re.fullmatch(r"/dicom-web/studies/([0-9.]+)/series", path):
            headers = [dcmread(file) for file in self.server.having("StudyInstanceUID", found[1])]
            each = {str(header.SeriesInstanceUID): header for header in headers}
            self.say_json([_some_of(header, SERIES) for header in each.values()])
        elif found := re.fullmatch(r"/dicom-web/studies/[0-9.]+/series/([0-9.]+)/instances", path):
            files = self.server.having("SeriesInstanceUID", found[1])
            self.say_json([_some_of(dcmread(file), INSTANCE) for file in files[:1]])
        elif found := re.fullmatch(r"/dicom-web/studies/[0-9.]+/series/([0-9.]+)", path):
            files = self.server.having("SeriesInstanceUID", found[1])
            part = b"--edge\r\nContent-Type: application/dicom\r\n\r\n"
            body = b"\r\n".join(part + file.read_bytes() for file in files) + b"\r\n--edge--"
            self.say(200, 'multipart/related; type="application/dicom"; boundary=edge', body)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        said, kind = Dataset(), Message()
        kind["Content-Type"] = self.headers["Content-Type"]
        edge = b"--" + str(kind.get_param("boundary")).encode()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for part in body.split(edge)[1:-1]:
            report = dcmread(BytesIO(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")))
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
                report.SOPClassUID,
                report.SOPInstanceUID,
            )
            if self.server.refuses is None:
                self.server.stored.append(report)
                said.ReferencedSOPSequence = [item]
            else:
                item.FailureReason = self.server.refuses
                said.FailedSOPSequence = [item]
        self.say_json(said.to_json_dict(), 200 if self.server.refuses is None else 202)

    def say_json(self, content, status: int = 200) -> None:
        self.say(status, "application/dicom+json", json.dumps(content).encode())

    def say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _some_of(header: Dataset, keywords: tuple[str, ...]) -> dict:
    return Dataset(
        {header[keyword].tag: header[keyword] for keyword in keywords if keyword in header}
    ).to_json_dict()


@contextmanager
def archive(*files: Path) -> Iterator[Archive]:
    server = Archive([*files])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
