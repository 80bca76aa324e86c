"""HAM10000 (Tschandl, Rosendahl and Kittler 2018): HAM10000_metadata.csv + images/ISIC_*.jpg.

One `Patient` is one dermoscopic image, with the age and sex of the person and the place on the body;
`Patient.group` is the lesion, of which the whole collection has several images for some.

Never to a model: dx_type, how the diagnosis was made. Whoever suspects a melanoma cuts it out, so that the
examination tells the answer.
"""

from __future__ import annotations

from pathlib import Path

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.study import prevalence
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.tables.read import find_table, read_table
from robustmdiff.data.task import Task
from robustmdiff.labels import EXCLUSIVE
from robustmdiff.spelling import canonical

CLASSES = {
    "nv": "melanocytic nevus",
    "bkl": "benign keratosis",
    "mel": "melanoma",
    "bcc": "basal cell carcinoma",
    "akiec": "actinic keratosis or intraepithelial carcinoma",
    "vasc": "vascular lesion",
    "df": "dermatofibroma",
}
RARE = ("vascular lesion", "dermatofibroma")  # fewer than one in fifty, here and in the whole collection
PLACES = (
    *("abdomen", "acral", "back", "chest", "ear", "face", "foot", "genital", "hand"),
    *("lower extremity", "neck", "scalp", "trunk", "upper extremity"),
)
FIELDS = (
    Field("age", "years"),
    Field("sex", categories=("F", "M")),
    Field("localization", categories=PLACES),
)
COLUMNS = ("lesion_id", "image_id", "dx", "age", "sex", "localization")
UNKNOWN = "unknown"  # how the collection writes that a value is missing


def load_ham10000(
    root: str | Path,
    image_size: int = 64,
    cache: str | Path | None = None,
    *,
    bad: BadRows | None = None,
) -> tuple[list[Patient], Task]:
    """All images, and the task of telling the seven kinds of pigmented lesion apart.

    A row whose image file is not there has no image. Prevalence is that of the collection, which was gathered
    at two clinics, and is nobody's population. Root may be read-only; decoded images are kept in `cache`, if
    given. Raises DataError naming file, row and column of every row that cannot be read, unless `bad` is to
    skip them.
    """
    root, bad = Path(root), bad or BadRows()
    dermoscopy = Modality("dermoscopy", "image", shape=(3, image_size, image_size))
    patients: list[Patient] = []
    seen: dict[str, str] = {}
    for row in read_table(find_table(root, "HAM10000_metadata"), COLUMNS, bad=bad):
        with bad.row():
            patients.append(_patient(root, row, seen, dermoscopy, Path(cache) if cache else None))
    bad.check()
    classes = tuple(CLASSES.values())
    task = Task(
        modalities=(dermoscopy, Modality("clinic", "values", fields=FIELDS)),
        classes=classes,
        prevalence=prevalence(patients, classes, EXCLUSIVE),
        rare=RARE,
    )
    return patients, task


def _patient(root: Path, row: Row, seen: dict[str, str], dermoscopy: Modality, cache: Path | None) -> Patient:
    """The patient of a row; `seen` holds the images so far and where they stand."""
    for column in ("lesion_id", "image_id"):
        if not row.name(column):
            raise row.error(column, "expected something")
    id = row.name("image_id")
    first = seen.setdefault(canonical(id), row.source)
    if first != row.source:
        raise row.error("image_id", f"expected each image once ({first})")
    image = root / "images" / f"{id}.jpg"
    picture = None
    if image.is_file():
        where = f"{row.source}, column 'image_id': {image.name}"
        picture = ImageFile(str(image), dermoscopy, where, cache)
    diagnosis = row.one_of("dx", CLASSES)
    values = _values(row)
    age = values.get("age")
    return Patient(
        id=id,
        modalities={
            "dermoscopy": picture,
            "clinic": values or None,
        },
        labels={diagnosis: True} if diagnosis else {},
        source=row.source,
        age=age if isinstance(age, float) else None,
        group=row.name("lesion_id"),
    )


def _values(row: Row) -> dict[str, float | str]:
    known = row._replace(
        cells={column: "" if cell == UNKNOWN else cell for column, cell in row.cells.items()}
    )
    values = {
        "age": known.number("age", 0, 120),
        "sex": known.one_of("sex", {"female": "F", "male": "M"}),
        "localization": known.one_of("localization", {place: place for place in PLACES}),
    }
    return {name: value for name, value in values.items() if value is not None}
