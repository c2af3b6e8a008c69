"""Settings and fixtures that the tests share. Warnings are errors (pyproject.toml)."""

import os
import shutil
import sys
from importlib import metadata

# before jax is imported
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests compile some thousand small programs, and that is most of their time: less than half of it without
# optimization and fusion. XLA ends the process without a word of pytest's if it does not know a flag.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if int(metadata.version("jax").split(".")[1]) < 11 else ""),
)

import jax
import pooch
import problems
import pytest
from hypothesis import HealthCheck, settings
from jax import monitoring

jax.config.update("jax_numpy_rank_promotion", "raise")
collect_ignore = ["run/devices.py", "run/on_disk.py", "run/processes.py"]  # programs that tests start

settings.register_profile(
    "bilevel",
    deadline=None,  # the first example compiles
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("bilevel")


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
    """What a worker has compiled, other modules and new functions read from its own files: a seventh of the time."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
    """Without this a worker ends with some ten gigabytes of compiled programs."""
    yield
    jax.clear_caches()


@pytest.fixture
def write_module(tmp_path):
    """`write_module(name, text)` writes a file and gives its path. Modules from there are forgotten after the test."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__dict__", {}).get("__file__")).startswith(str(tmp_path)):
            del sys.modules[name]


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


@pytest.fixture
def empty_world(tmp_path, monkeypatch):
    """An empty cache, and no folder."""
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("BILEVEL_DATA", raising=False)


@pytest.fixture
def folder_of(empty_world, tmp_path, monkeypatch):
    """Name ↦ the (new) folder `$BILEVEL_DATA/<name>`."""
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path / "data"))

    def make(name):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        return folder

    return make


@pytest.fixture(scope="session")
def quadratic():
    """The maker of `Quadratic` problems."""
    return problems.Quadratic


@pytest.fixture(scope="session")
def recorder():
    """The class of sources that record their draws in `draws`."""
    return problems.Recorder


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window, which logs its console and its network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()
