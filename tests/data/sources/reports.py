"""Writes reports as Open-i publishes them."""

from __future__ import annotations

import io
import tarfile
from xml.sax.saxutils import escape, quoteattr

SAID = {
    "COMPARISON": "None.",
    "INDICATION": "Positive TB test",
    "FINDINGS": "The lungs are clear.\n  No XXXX.",
    "IMPRESSION": "Normal chest.",
}


def xml(uid, images=(), coded=("normal",), **said):
    texts = "".join(
        f"<AbstractText Label={quoteattr(label)}>{escape(text)}</AbstractText>"
        for label, text in (SAID | said).items()
    )
    majors = "".join(f"<major>{escape(name)}</major>" for name in coded)
    pictures = "".join(
        f"<parentImage id={quoteattr(id)}><caption>PA and Lateral</caption></parentImage>" for id in images
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><meta type="rr"/><uId id={quoteattr(uid)}/>'
        f"<MedlineCitation><Article><Abstract>{texts}</Abstract></Article></MedlineCitation>"
        f"<MeSH>{majors}</MeSH>{pictures}</eCitation>"
    ).encode()


def unpacked(root, *files):
    (root / "ecgen-radiology").mkdir()
    for number, content in enumerate(files, start=1):
        (root / "ecgen-radiology" / f"{number}.xml").write_bytes(content)
    return root


def packed(root, *files):
    with tarfile.open(root / "NLMCXR_reports.tgz", "w:gz") as archive:
        for number, content in enumerate(files, start=1):
            member = tarfile.TarInfo(f"ecgen-radiology/{number}.xml")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root
