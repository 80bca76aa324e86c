"""The small study of tests.small_study, as a fixture."""

from tests.small_study import study  # noqa: F401
