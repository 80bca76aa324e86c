"""Images that a model made, as files that say so: PNG to look at, NIfTI and DICOM with the values themselves.

Each is what `read.read_image` reads back. Nobody's name is in them: a patient who does not exist has none.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from robustmdiff.data.modality import Modality

if TYPE_CHECKING:
    from pydicom import Dataset

SYNTHETIC = "synthetic"  # how every file, and its name, begins to say what it is
PRODUCT = "RobustMDiff"
COUNTS = 2**16 - 1
DESCRIPTION = 79  # characters that a NIfTI header has for it


def to_png(image: np.ndarray, modality: Modality, says: Mapping[str, str]) -> bytes:
    """image float32 [C, H, W] in the modality's unit, through its window to 16 bits of grey; channels from
    left to right. says: what the file shall hold in its own text, by keyword."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    held = PngInfo()
    for keyword, text in {"Title": SYNTHETIC, "Software": PRODUCT, **says}.items():
        held.add_itxt(keyword, text)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(_counts(image, modality)), axis=1)).save(buffer, "png", pnginfo=held)
    return buffer.getvalue()


def to_nifti(image: np.ndarray, modality: Modality, says: str) -> bytes:
    """image float32 [C, H, W] as the axial slices of a volume (.nii.gz), from below: `nifti.read_nifti` gives
    them back. How large a voxel is nobody knows: it is 1 mm."""
    import nibabel

    volume = np.ascontiguousarray(image[:, ::-1, ::-1].transpose(2, 1, 0), dtype=np.float32)
    made = nibabel.Nifti1Image(volume, np.eye(4))
    made.header["descrip"] = f"{SYNTHETIC}: {says}".encode("ascii", "replace")[:DESCRIPTION]
    made.header["intent_name"] = SYNTHETIC.encode()
    return gzip.compress(made.to_bytes(), mtime=0)


def to_dicom(image: np.ndarray, modality: Modality, says: str) -> list[bytes]:
    """image float32 [C, H, W] as DICOM Secondary Captures, one a channel and all of one series: 16 bits over
    the modality's window, with the rescale that leads back to its unit."""
    from pydicom.uid import generate_uid

    study, series = generate_uid(), generate_uid()
    files = []
    for number, counts in enumerate(_counts(image, modality), start=1):
        dataset = _capture(counts, modality, says)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.InstanceNumber = number
        if modality.channels:
            dataset.ImageComments = modality.channels[number - 1]
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


def _counts(image: np.ndarray, modality: Modality) -> np.ndarray:
    """uint16 [C, H, W]: the window is the full scale, what lies outside is clipped."""
    low, high = modality.low_high
    share = (np.asarray(image, np.float64) - low) / (high - low)
    return np.rint(share.clip(0, 1) * COUNTS).astype(np.uint16)


def _capture(counts: np.ndarray, modality: Modality, says: str) -> Dataset:
    """One Secondary Capture (DICOM PS3.3, A.8.1), marked in each of the places that there are for it."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    low, high = modality.low_high
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.SyntheticData = "YES"
    dataset.ConversionType = "SYN"
    dataset.Modality = "OT"
    dataset.SeriesDescription = f"{SYNTHETIC} {modality.name}"[:64]
    dataset.DerivationDescription = f"{SYNTHETIC}: {says}"[:1024]
    dataset.Manufacturer = PRODUCT
    dataset.PatientID = dataset.PatientName = SYNTHETIC
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "there is no such patient"
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        setattr(dataset, empty, "")
    dataset.ReferringPhysicianName = dataset.PatientOrientation = ""
    dataset.SeriesNumber = 1
    dataset.BurnedInAnnotation = "NO"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = counts.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = f"{(high - low) / COUNTS:.9g}", f"{low:.9g}"
    dataset.RescaleType = "US"
    dataset.WindowCenter, dataset.WindowWidth = f"{(low + high) / 2:.9g}", f"{high - low:.9g}"
    dataset.PixelData = counts.astype("<u2").tobytes()
    return dataset
