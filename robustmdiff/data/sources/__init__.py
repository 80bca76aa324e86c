"""The formats of patients from files: the one list of them (`data.cohort` is built in, and no file)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Format(NamedTuple):
    """load    module here and function: load(root, **options, bad=) -> (patients, task)
    verify  function of that module, where there is more to count than in any patients: verify(root) -> counts
    """

    module: str
    load: str
    verify: str = ""

    def loader(self) -> Callable[..., Any]:
        """The function that loads, imported no sooner than now."""
        return getattr(import_module(f"{__name__}.{self.module}"), self.load)

    def counted(self, root: str) -> dict[str, Any]:
        """What else there is to count."""
        if not self.verify:
            return {}
        return getattr(import_module(f"{__name__}.{self.module}"), self.verify)(root)


SOURCES = {
    "chestxray": Format("chestxray", "load_chestxray", "verify"),
    "covid": Format("chestxray", "covid_task", "verify"),
    "hannover": Format("hannover", "load_hannover", "verify"),
    "ham10000": Format("ham10000", "load_ham10000"),
    "lgg": Format("lgg", "load_lgg", "verify"),
    "support2": Format("support2", "load_support2", "verify"),
    "brats": Format("brats", "load_brats", "verify"),
    "ixi": Format("ixi", "load_ixi", "verify"),
    "openi": Format("openi", "load_openi", "verify"),
    "iu_xray": Format("iu_xray", "load_iu_xray", "verify"),
    "mimic_cxr": Format("mimic_cxr", "load_mimic_cxr", "verify"),
    "brats_deepmedic": Format("brats_deepmedic", "load_brats_deepmedic"),
    "folder": Format("folder", "load_folder"),
}
