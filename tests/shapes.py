"""The package with the types and shapes of its annotations checked at run time; import it before `bilevel`."""

import contextlib

import jaxtyping
import pytest

# an integer may stand where a float is annotated, as for pyright
jaxtyping.install_import_hook("bilevel", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@contextlib.contextmanager
def unchecked():
    """Without these checks: for arguments that no annotation allows, which the package refuses in words of its own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


_raises = pytest.raises


@contextlib.contextmanager
def raises(*args, **kwargs):
    """`pytest.raises`, whose block is `unchecked`."""
    with _raises(*args, **kwargs) as caught, unchecked():
        yield caught


pytest.raises = raises
