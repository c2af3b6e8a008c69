"""Settings and small problems that the tests share. Warnings are errors (pyproject.toml)."""

import os

# before jax is imported
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests compile some thousand small programs, and that is most of their time: less than half of it without
# optimization and fusion.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from jax import monitoring

import bilevel as bl

jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile(
    "bilevel",
    deadline=None,  # the first example compiles
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("bilevel")


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
    """Without this a worker ends with some ten gigabytes of compiled programs."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compiled():
    """The names of the programs that XLA compiles from here on.

    Copies of NumPy arrays to the device ("stage") are programs too in JAX 0.10, and are left out.
    """
    names = []
    jax.random.key(0)  # the making of a key is a program, too

    def listen(event, duration, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration" and fun_name != "jit(stage)":
            names.append(fun_name)

    monitoring.register_event_duration_secs_listener(listen)
    yield names
    monitoring.unregister_event_duration_listener(listen)


class Clock:
    """A clock that goes on by a millisecond when it is read, and by what a test adds to `now`."""

    now = 0.0

    def __call__(self):
        self.now += 1e-3
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """What `time.perf_counter` reads for the length of a test."""
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


class Quadratic:
    """g = ½ yᵀAy − yᵀBx and f = ½‖y − c‖² + ½‖x‖², with A's eigenvalues spread from mu to L.

    y*(x) = A⁻¹Bx and ∇Φ(x) = x + BᵀA⁻¹(y*(x) − c).
    """

    def __init__(self, mu=0.5, L=4.0, dim=6, x_dim=3, seed=0):
        rng = np.random.default_rng(seed)
        self.mu, self.L, self.dim = mu, L, dim
        self.eigenvalues = np.linspace(mu, L, dim)
        self.eigenvectors = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        self.A = self.eigenvectors * self.eigenvalues @ self.eigenvectors.T
        self.B, self.c = rng.normal(size=(dim, x_dim)), rng.normal(size=dim)
        self.x, self.b = rng.normal(size=x_dim), rng.normal(size=dim)
        self.problem = bl.Problem(upper=bl.Level(self.f), lower=bl.Level(self.g))

    def f(self, x, y, _):
        return 0.5 * jnp.sum((y - self.c) ** 2) + 0.5 * jnp.sum(x**2)

    def g(self, x, y, _):
        return 0.5 * y @ (self.A @ y) - y @ (self.B @ x)

    def y_star(self, x):
        return np.linalg.solve(self.A, self.B @ x)

    def hypergradient(self, x):
        return x + self.B.T @ np.linalg.solve(self.A, self.y_star(x) - self.c)

    @property
    def x_star(self):
        M = np.linalg.solve(self.A, self.B)
        return np.linalg.solve(np.eye(len(self.x)) + M.T @ M, M.T @ self.c)


@pytest.fixture(scope="session")
def quadratic():
    """The maker of `Quadratic` problems."""
    return Quadratic


class _Recorder(bl.Rows):
    """Rows that append the indices of every draw to a list; for use under `jax.disable_jit()`."""

    draws: list = None

    def __init__(self, arrays):
        super().__init__(arrays)
        self.draws = []

    def draw(self, key, size):
        batch = super().draw(key, size)
        self.draws.append(np.asarray(batch.indices))
        return batch


@pytest.fixture(scope="session")
def recorder():
    """The class of sources that record their draws in `draws`."""
    return _Recorder
