"""An encoder of one's own: the class that "package.module:Class" names, held to the contract.

The class is an nn.Module built from (modality, config) whose forward takes the observations of the n
patients who have the modality and returns (tokens, lengths), as `Encoder` says. One that is an `Encoder`,
with `embed` and `encode`, is explained down to its parts as well.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustmdiff.data.modality import Modality
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.kinds import ENCODERS
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import did_you_mean


def is_own(modality: Modality) -> bool:
    """Whether the modality names a class of the user's own."""
    return modality.encoder is not None and ":" in modality.encoder


def load_own(modality: Modality, config: EncoderConfig) -> nn.Module:
    """The class that the modality names, built. Its module may lie in the current folder.

    Raises Refusal if there is no such module or class, or if it cannot be built.
    """
    assert modality.encoder is not None
    path, _, name = modality.encoder.partition(":")
    module = _module(modality, path)
    found = getattr(module, name, None)
    where = getattr(module, "__file__", None) or path
    if found is None:
        classes = [n for n, x in vars(module).items() if isinstance(x, type) and issubclass(x, nn.Module)]
        hint = did_you_mean(name, classes)
        raise _refusal(modality, f"is not there: {where} has no {name!r}{hint}", "the name of a class in it")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        what = f"class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise _refusal(modality, f"is a {what}", "a subclass of torch.nn.Module")
    try:
        return found(modality, config)
    except Exception as error:  # of any kind: it is the user's code
        raise _refusal(modality, f"cannot be built ({_told(error)})", f"{name}(modality, config)") from error


def try_out(encoder: nn.Module, modality: Modality, config: EncoderConfig) -> None:
    """Run an encoder on two patients of whom little is known, rather than have it fail on the first batch.

    Raises Refusal for one that cannot be run, or does not give what `check_output` expects.
    """
    observations = ENCODERS[modality.kind].blank(modality)
    training = encoder.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = encoder.eval()(observations)
    except Exception as error:  # likewise
        raise _refusal(
            modality,
            f"cannot be run ({_told(error)})",
            f"forward({type(observations).__name__}) -> (tokens, lengths)",
        ) from error
    finally:
        encoder.train(training)
    check_output(modality, config.d_h, len(observations.rows), output)


def check_output(modality: Modality, d_h: int, n: int, output: Any) -> None:
    """Raises Refusal unless it is (tokens, lengths) for n patients: float [sum of lengths, d_h], finite,
    and integers [n] >= 1 on the same device. Values are looked at on the CPU only."""
    if not (isinstance(output, tuple) and len(output) == 2 and all(isinstance(x, Tensor) for x in output)):
        given = f"({', '.join(type(x).__name__ for x in output)})" if isinstance(output, tuple) else None
        raise _refusal(modality, f"gives {given or type(output).__name__}", "(tokens, lengths), two tensors")
    tokens, lengths = output
    if tokens.ndim != 2 or tokens.shape[1] != d_h or not tokens.is_floating_point():
        raise _refusal(
            modality, f"gives tokens {_shape(tokens)}", f"floating point [sum of lengths, d_h = {d_h}]"
        )
    if lengths.shape != (n,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise _refusal(modality, f"gives lengths {_shape(lengths)}", f"int64 [{n}], one for each patient")
    if lengths.device != tokens.device:
        raise _refusal(
            modality, f"gives tokens on {tokens.device} and lengths on {lengths.device}", "both on the first"
        )
    if tokens.device.type != "cpu":
        return
    if int(lengths.min()) < 1:
        raise _refusal(
            modality,
            f"gives lengths of which the least is {int(lengths.min())}",
            "at least 1: H_i is a token",
        )
    if int(lengths.sum()) != len(tokens):
        raise _refusal(
            modality,
            f"gives lengths that add up to {int(lengths.sum())}",
            f"{len(tokens)}, as many as tokens",
        )
    if not tokens.isfinite().all():
        raise _refusal(modality, "gives tokens that are NaN or infinite", "finite numbers")


def _module(modality: Modality, path: str) -> ModuleType:
    try:
        with _current_folder():
            return importlib.import_module(path)
    except Exception as error:  # whatever its first lines do
        raise _refusal(
            modality,
            f"cannot be imported ({_told(error)})",
            f"a module {path!r} that is installed or lies in {Path.cwd()}",
        ) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Behind all else on the path, so that a file there hides nothing that is installed."""
    folder = str(Path.cwd())
    if folder in sys.path:
        yield
        return
    importlib.invalidate_caches()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _refusal(modality: Modality, what: str, expected: str) -> Refusal:
    return Refusal(f"modality {modality.name!r}: encoder {modality.encoder!r} {what}, expected {expected}")


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _shape(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
