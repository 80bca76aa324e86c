"""Exported models where there is no torch: numpy, tokenizers, an image reader and a runtime."""

from robustmdiff.runtime.artefact import Artefact
from robustmdiff.runtime.manifest import Manifest

__all__ = ["Artefact", "Manifest"]
