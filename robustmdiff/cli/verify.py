"""`robustmdiff verify`: whether a folder is as somebody signed it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `robustmdiff export --sign` wrote.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The signer's public key (EC, PEM).")],
) -> None:
    """Check the signature of an exported folder, without a network: every file is as it was signed, and
    there is no other. Whether the model says what the run says, `robustmdiff export --verify` tells.

    \b
    Example:
      robustmdiff verify exported --key ward.pub
    """
    from robustmdiff.runtime import signature

    signature.verify(folder, key)
    print(f"{folder}: every file is as it was signed with the key of {key}")
