"""The small study and the small model of tests.small_study, as fixtures."""

from tests.small_study import make_study, model, study  # noqa: F401
