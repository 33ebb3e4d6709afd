"""Keep PyTorch's own remarks from the user, who is told what matters by an error or a result."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing that is logged, printed or warned of inside is seen.

    Compilers and exporters print their progress, warn of their own internals, and log every attempt
    that fails with a traceback.
    """
    previous = logging.root.manager.disable
    logging.disable(max(previous, logging.ERROR))
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
