"""A pytest plugin that checks the types and shapes of the package's annotations at run time: `make test-shapes`."""

import contextlib

import jaxtyping
import pytest

# an integer may stand where a float is annotated, as for pyright
jaxtyping.install_import_hook("bilevel", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

_raises = pytest.raises


def pytest_configure(config):
    # beartype draws the entry of a list that it checks, also where a strategy calls the package
    config.addinivalue_line("filterwarnings", "ignore:Do not use the `random` module inside strategies")


@contextlib.contextmanager
def raises(*args, **kwargs):
    """`pytest.raises` whose block is not checked: the package refuses in words of its own what no annotation allows."""
    with _raises(*args, **kwargs) as caught:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            yield caught
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)


pytest.raises = raises
