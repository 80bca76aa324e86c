"""Which implementation runs, and why the others do not.

Every op has one definition and several backends. A backend states what it can take by
returning the reasons why it cannot; a backend asked for by name runs or raises with those
reasons, and never falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.compiler import is_compiling


def none(a: Any) -> list[str]:
    """No reason against any arguments."""
    return []


@dataclass(frozen=True)
class Backend:
    """One implementation of an op. `a` is the op's arguments, a NamedTuple, checked.

    run(a): the op. reasons(a) -> list[str]: why it cannot take these arguments, [] if it can. slower(a) ->
    list[str]: why one further down the list is better for them, though this one can; who asks for it by name
    gets it. Both may look at dtypes, devices and shapes, never at values.
    """

    name: str
    run: Callable[[Any], Any]
    reasons: Callable[[Any], list[str]] = none
    slower: Callable[[Any], list[str]] = none


@dataclass(frozen=True)
class Explanation:
    """Which backend runs an op, None if none can, and why each of the others does not."""

    op: str
    chosen: str | None
    declined: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.chosen or 'no backend can run'}"]
        lines += [f"  not {name}: {'; '.join(reasons)}" for name, reasons in self.declined.items()]
        return "\n".join(lines)


class BackendError(RuntimeError):
    """The backend asked for by name cannot take these arguments."""


class Op:
    """A named op and its backends, most preferred first.

    arguments(*args, **kwargs) takes the arguments of the public function, checks them and returns the
    NamedTuple that the backends take.
    """

    registry: ClassVar[dict[str, Op]] = {}

    def __init__(self, name: str, arguments: Callable[..., Any], backends: tuple[Backend, ...]) -> None:
        self.name = name
        self.arguments = arguments
        self.backends = backends
        Op.registry[name] = self

    def __call__(self, a: Any) -> Any:
        """The op on the backend that `select` names."""
        return self.select(a).run(a)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """What `select` would do for a call of the public function with these arguments."""
        a = self.arguments(*args, **kwargs)
        requested = _requests().get(self.name)
        chosen: str | None = None
        declined: dict[str, list[str]] = {}
        for backend in self.backends:
            reasons = backend.reasons(a)
            if not reasons and requested is None:
                reasons = backend.slower(a)
            if not reasons and requested not in (None, backend.name):
                reasons = [f"{requested} was asked for by name"]
            if not reasons and chosen is not None:
                reasons = [f"{chosen} is preferred"]
            if reasons:
                declined[backend.name] = reasons
            else:
                chosen = backend.name
        return Explanation(self.name, chosen, declined)

    def select(self, a: Any) -> Backend:
        requested = _requests().get(self.name)
        if requested is not None:
            backend = self.backend(requested)
            reasons = backend.reasons(a)
            if reasons:
                raise BackendError(f"{self.name}: backend {requested!r} cannot run: {'; '.join(reasons)}")
            return backend
        for backend in self.backends:
            if not backend.reasons(a) and not backend.slower(a):
                return backend
        declined = [f"{b.name}: {'; '.join(b.reasons(a))}" for b in self.backends]
        raise BackendError(f"{self.name}: no backend can run: " + " | ".join(declined))

    def backend(self, name: str) -> Backend:
        for backend in self.backends:
            if backend.name == name:
                return backend
        names = ", ".join(repr(backend.name) for backend in self.backends)
        raise BackendError(f"{self.name}: backend is {name!r}, expected one of {names}")


_requested: ContextVar[dict[str, str]] = ContextVar("robustmdiff_backends", default={})  # noqa: B039 (never mutated)

# torch.compile cannot trace a ContextVar, but it does trace and guard on a plain dictionary. This
# one follows the latest use_backend of the process and is read only while a graph is traced or
# its guards are checked, so code compiled outside a block is compiled anew inside it.
_requested_in_graphs: dict[str, str] = {}


def _requests() -> dict[str, str]:
    return _requested_in_graphs if is_compiling() else _requested.get()


@contextmanager
def use_backend(**backend_of_op: str) -> Iterator[None]:
    """Within this block run these ops on these backends: `use_backend(ddpm_step="torch")`."""
    for op, name in backend_of_op.items():
        if op not in Op.registry:
            raise BackendError(f"use_backend: op is {op!r}, expected one of {', '.join(sorted(Op.registry))}")
        Op.registry[op].backend(name)
    global _requested_in_graphs
    token = _requested.set({**_requested.get(), **backend_of_op})
    _requested_in_graphs = _requested.get()
    try:
        yield
    finally:
        _requested.reset(token)
        _requested_in_graphs = _requested.get()


def explain(op: str, *args: Any, **kwargs: Any) -> Explanation:
    """Which backend a call of `op` with these arguments would run on, and why not on each other one."""
    if op not in Op.registry:
        raise BackendError(f"explain: op is {op!r}, expected one of {', '.join(sorted(Op.registry))}")
    return Op.registry[op].explain(*args, **kwargs)
