"""The projections of STABLE and SVRB, and the problems that are too large for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.solvers.matrices import Spectral, clipped_svd, times


def test_projections_are_the_nearest_matrices(x64):
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(5, 5)), rng.normal(size=(4, 6))
    spectral = Spectral.nearest(jnp.asarray(A), 0.3)
    expected_values, expected_vectors = np.linalg.eigh((A + A.T) / 2)
    assert expected_values[0] < 0.3  # there is something to do
    expected = expected_vectors @ np.diag(np.maximum(expected_values, 0.3)) @ expected_vectors.T
    np.testing.assert_allclose(spectral.matrix, expected, atol=1e-12)
    b = rng.normal(size=5)
    found = spectral.solve({"a": b[:2], "b": b[2:]})
    np.testing.assert_allclose(np.append(found["a"], found["b"]), np.linalg.solve(expected, b), atol=1e-10)
    u = rng.normal(size=6)
    product = times(jnp.asarray(B), (u[:3], u[3:]), like=jnp.zeros((2, 2)))
    np.testing.assert_allclose(product, (B @ u).reshape(2, 2), atol=1e-12)
    clipped = clipped_svd(jnp.asarray(B), 0.8)
    np.testing.assert_allclose(np.linalg.svd(clipped)[1], np.minimum(np.linalg.svd(B)[1], 0.8), atol=1e-12)
    np.testing.assert_allclose(clipped_svd(jnp.asarray(B), 100.0), B, atol=1e-12)


@pytest.mark.parametrize("solver", [bl.STABLE(0.1, 0.1, 0.5, 0.1), bl.SVRB(0.1, 0.1, 0.5, 0.1)])
def test_what_is_too_large_is_refused_with_its_memory(solver, compiled):
    problem = bl.Problem(bl.Level(lambda x, y, _: jnp.sum(y)), bl.Level(lambda x, y, _: jnp.sum(y**2) + x))
    message = r"x has 1 and y 20000 entries, .* take 4.8 GB .*; use a solver that needs only products, such as bl.SOBA"
    with pytest.raises(ValueError, match=message):
        bl.solve(problem, solver, 0.0, jnp.zeros(20_000), steps=1, key=jax.random.key(0))
