"""The count of oracle calls against Python's integers."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilevel import Cost
from bilevel.cost import Total


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**24), st.integers(0, 2**30 - 1)), min_size=4, max_size=4))
def test_counts_are_exact(pairs):
    """Products to 2⁵⁴, with Python's and with traced numbers of calls, added and multiplied."""
    exact = {kind: 2 * calls * samples for kind, (calls, samples) in zip("FGHJ", pairs, strict=True)}
    kinds = dict(zip("FGHJ", pairs, strict=True))
    python = Cost(**kinds) + Cost(**{kind: a * b for kind, (a, b) in kinds.items()})
    arrays = Cost(**{kind: (jnp.asarray(calls, jnp.int32), samples) for kind, (calls, samples) in kinds.items()})
    assert python.total().to_dict() == exact
    assert (arrays + arrays).total().to_dict() == (2 * arrays).total().to_dict() == exact
    assert all(type(n) is int for n in python.total().to_dict().values())
    assert float(python.total().samples()) == pytest.approx(sum(exact.values()), rel=1e-6)


@pytest.mark.parametrize(("calls", "samples"), [(2**30, 2**15), (2**16, 2**31)])
def test_counts_are_exact_throughout_their_documented_range(calls, samples):
    cost = Cost(F=(jnp.asarray(calls, jnp.int32), samples))
    assert cost.total().to_dict()["F"] == calls * samples


@pytest.mark.parametrize("wide", [False, True])
def test_a_total_in_a_scan_passes_2_to_the_32(wide):
    """Sums of large counts, the calls traced: 3 × 700 × 10⁷ and ten thousand small ones."""

    @jax.jit
    def run(total):
        def body(total, k):
            return total + Cost(F=10**7, G=(k, 10**7), H=(jnp.where(k % 2 == 0, 3, 0), 2**20), J=1), None

        return jax.lax.scan(body, total, jnp.arange(700))[0]

    with jax.enable_x64(wide):
        once = run(Total.zero())
        twice = run(once)
    k = sum(range(700))
    expected = {"F": 700 * 10**7, "G": k * 10**7, "H": 350 * 3 * 2**20, "J": 700}
    assert once.to_dict() == expected
    assert expected["F"] > 2**32 > expected["F"] // 2
    assert expected["G"] > 2**40
    assert twice.to_dict() == (once + once).to_dict() == {kind: 2 * n for kind, n in expected.items()}
    assert twice.digits.dtype == jnp.uint32


@pytest.mark.parametrize("n", [2**15 - 1, 2**15, 2**30 - 1, 2**31, 2**32 - 1, 2**32, 2**45 + 12345])
def test_a_total_at_the_edges_of_its_digits(n):
    total = Cost(G=n).total()
    assert total.to_dict() == {"F": 0, "G": n, "H": 0, "J": 0}
    assert (total + Cost(G=1, H=1)).to_dict() == {"F": 0, "G": n + 1, "H": 1, "J": 0}
