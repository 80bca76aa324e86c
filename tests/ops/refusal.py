"""What is wrong is refused in the same words whichever backend is asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from robustmdiff import use_backend


def refuses(op: str, call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    """`call()` raises whichever backend is asked for, in the same words."""
    found = []
    for asked in ({}, {op: "native"}):
        with use_backend(**asked), pytest.raises(error, match=message) as raised:
            call()
        found.append((raised.type, str(raised.value)))
    assert found[0] == found[1]
