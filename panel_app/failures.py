"""Failures that a visitor is told of."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffviews.errors import DiffViewsError

logger = logging.getLogger(__name__)


@contextmanager
def failures_to(tell: Callable[[str], None], what: str) -> Iterator[None]:
    """Tell of a failure within instead of raising it; of one that nobody foresaw the log gets the details.

    Args:
        tell: called with a sentence for the visitor.
        what: what failed, for the log.
    """
    try:
        yield
    except DiffViewsError as error:
        tell(str(error))
    except Exception as error:
        logger.exception("%s failed", what)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        tell(f"This did not work: {reason}. The server's log has the details.")
