"""Who may ask: bearer tokens, each with a name for the audit record."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Self

from robustmdiff.refusal import Refusal
from robustmdiff.serving.limits import Refused

SHORTEST = 16  # characters


class Tokens:
    """The SHA-256 of each, by its name."""

    def __init__(self, named: dict[str, str]) -> None:
        self._digests = {name: _digest(token) for name, token in named.items()}

    @classmethod
    def load(cls, path: Path) -> Self:
        """A file of lines "NAME TOKEN". Raises Refusal, which quotes no token."""
        named: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or len(words[1]) < SHORTEST or words[0] in named:
                raise Refusal(
                    f"{path}:{number}: is not 'NAME TOKEN', expected a name of its own and a token of "
                    f"at least {SHORTEST} characters"
                )
            named[words[0]] = words[1]
        if not named:
            raise Refusal(f"{path}: holds no token, expected lines 'NAME TOKEN'")
        return cls(named)

    def whose(self, authorization: str) -> str:
        """The name that belongs to a header. Every token is compared, in constant time. Raises Refused."""
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        found = [name for name, own in self._digests.items() if hmac.compare_digest(own, digest)]
        if scheme.lower() != "bearer" or not found:
            raise Refused(
                401, "the token is not one that is known here, expected 'Authorization: Bearer TOKEN'"
            )
        return found[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
