"""The built-in cohort: synthetic patients with a known best possible diagnosis."""

from robustmdiff.data.cohort.cohort import Cohort, make_cohort
from robustmdiff.data.cohort.config import CohortConfig

__all__ = ["Cohort", "CohortConfig", "make_cohort"]
