"""The small run of tests.experiment.small_run and where its pictures are kept, as fixtures."""

from tests.experiment.small_run import cache, run  # noqa: F401
