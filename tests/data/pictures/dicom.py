"""Writes DICOM images and series."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = ["1", "0", "0", "0", "1", "0"]
CORONAL = ["1", "0", "0", "0", "0", "-1"]


def written(path, stored, **fields):
    """stored [rows, columns], [rows, columns, 3] or [frames, ...]; cells of 8 or 16 bits by its dtype."""
    stored = np.ascontiguousarray(stored)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.PatientName, image.PatientID = "Doe^Jane", "12345"
    image.SeriesInstanceUID = "1.2.3"
    colour = stored.ndim > 2 and stored.shape[-1] == 3
    image.Rows, image.Columns = stored.shape[-3:-1] if colour else stored.shape[-2:]
    image.SamplesPerPixel = 3 if colour else 1
    image.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        image.PlanarConfiguration = 0
    image.BitsAllocated = image.BitsStored = 8 * stored.itemsize
    image.PixelRepresentation = int(stored.dtype.kind == "i")
    image.PixelData = stored.tobytes()
    for keyword, value in fields.items():
        setattr(image, keyword, value)
    image.HighBit = fields.get("HighBit", image.BitsStored - 1)
    image.save_as(path, enforce_file_format=True)
    return path


def series(folder, order, orientation=AXIAL, along=2, spacing=3.0, **fields):
    """Slice n, all of count n, lies at n * spacing; written in `order`, so that names say nothing."""
    folder.mkdir(exist_ok=True)
    for name, n in enumerate(order):
        position = ["-50", "-60", "-70"]
        position[along] = str(-70 + n * spacing)
        stored = np.full((4, 4), n, np.int16)
        written(
            *(folder / f"IM{name:04d}", stored),
            **{"ImagePositionPatient": position, "ImageOrientationPatient": orientation, **fields},
        )
    return folder


def edit(path, **fields):
    image = pydicom.dcmread(path)
    for keyword, value in fields.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    image.save_as(path)


def item(**fields):
    group = Dataset()
    for keyword, value in fields.items():
        setattr(group, keyword, value)
    return Sequence([group])
