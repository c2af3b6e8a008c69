"""What goes with a download: a notice, and an end to waiting."""

import contextlib
import pickle
import socket
import sys
import warnings
import zlib
from collections.abc import Iterator
from http.client import HTTPException

# What scikit-learn raises where there is no network, a torn file, or another file.
FAILURES = (OSError, EOFError, ValueError, HTTPException, zlib.error, pickle.UnpicklingError)
_TIMEOUT_SECONDS = 30.0


@contextlib.contextmanager
def notice(text: str) -> Iterator[None]:
    """Says on standard error what is going on."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield
    else:
        print(text, file=sys.stderr, flush=True)
        yield


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Sockets give up after a while, and scikit-learn's warnings about retries stay silent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)
