"""Fixtures of the tests that need no root."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from migrator import log

# How long an example takes depends on what else runs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _restored_loggers() -> Iterator[None]:
    """A command sets them up for its own standard error, which a test's threads may outlive."""
    loggers = [logging.getLogger(name) for name in log.PACKAGES]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
