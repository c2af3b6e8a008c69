"""Checkpoints: what `solve(..., checkpoint=DIR)` saves in its directory, and how it resumes from there."""

import hashlib
import importlib.util
import json
import time
from typing import IO, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bilevel import _extras as extras
from bilevel import _processes as processes
from bilevel._output.files import local_directory
from bilevel.run._identity import add_array, data, words

try:
    import fcntl
except ImportError:  # on Windows, where nothing keeps two processes from one directory
    fcntl = None

_MARK = "bilevel.json"  # a directory with other files and without this one is not ours
_PART = "bilevel.part"  # alone in the directory, it is from a process that died while writing it
_LOCK = "bilevel.lock"
_OVERHEAD = 10  # the time between two checkpoints, as a multiple of the time to save one


class CheckpointError(RuntimeError):
    """The run cannot resume: its checkpoint is corrupt or belongs to another run. It is not modified."""


class Checkpoint:
    """A directory with the last two checkpoints of one run, written by orbax: each is complete or absent.

    `about` identifies the run, name by name. A run that differs in any entry cannot resume from the directory. A run
    that is `shared` by processes is saved and resumed by all of them together, each with its parts of the arrays.
    """

    def __init__(self, directory: Any, about: dict[str, Any], shared: bool = False):
        self._shared = shared
        if not can_checkpoint():
            raise ValueError(f"checkpoint: orbax, which writes it, is missing; {extras.install('checkpoint')}")
        self.directory = local_directory(directory, "checkpoint").absolute()
        self._lock: IO[str] | None = None
        try:
            if shared:
                self._check_together(about)
            else:
                self._check_ours(about)
            self._open()
        except BaseException:
            self._unlock()
            raise

    def _open(self) -> None:
        import orbax.checkpoint as orbax

        self._args = orbax.args
        options = orbax.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = orbax.CheckpointManager(self.directory, options=options)
        self._due, self._saved = 0.0, self._manager.latest_step()

    def _check_together(self, about: dict[str, Any]) -> None:
        """The first process checks for all."""
        failed: BaseException | None = None
        if processes.first():
            try:
                self._check_ours(about)
            except BaseException as error:
                failed = error
        if processes.gathered(np.int32(failed is not None)).any():
            raise failed or CheckpointError(
                f"checkpoint: the first process of this run refuses {self.directory}; its error says why"
            )

    def _check_ours(self, about: dict[str, Any]) -> None:
        mark, part, found = self.directory / _MARK, self.directory / _PART, None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if mark.exists() or all(path.name in (_PART, _LOCK) for path in self.directory.iterdir()):
                self._take_lock()
                if not mark.exists():
                    part.write_text(json.dumps(about, indent=2), encoding="utf-8")
                    part.replace(mark)
                found = json.loads(mark.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint: {self.directory} cannot be used ({error}); pass another directory"
            ) from error
        if not isinstance(found, dict):
            raise CheckpointError(
                f"checkpoint: {self.directory} holds files that are not a checkpoint; pass an empty or a new directory"
            )
        for name, value in about.items():
            if found.get(name) != value:
                raise CheckpointError(
                    f"checkpoint: {self.directory} belongs to another run: its {name} was "
                    f"{_short(found.get(name))}, now it is {_short(value)}; pass another directory, or what "
                    "it was made with"
                )

    def _take_lock(self) -> None:
        """Refuse a directory that another run uses. The system releases the lock when its process dies."""
        if fcntl is None:
            return
        try:
            self._lock = open(self.directory / _LOCK, "a", encoding="utf-8")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"checkpoint: {self.directory} is in use by another run; wait until it has ended, or pass another "
                "directory"
            ) from None
        except OSError:  # a file system without locks, or one that can only be read
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def load(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """The last state, in the shape of `like`, and what was saved with it; None if there is no checkpoint yet."""
        if self._saved is None:
            return None
        leaves, treedef = jax.tree.flatten(like)
        arrays = self._arrays(like)
        wanted = [_wanted(array) for array in arrays] if self._shared else arrays
        arguments = self._args.Composite(state=self._args.StandardRestore(wanted), record=self._args.JsonRestore())
        try:
            saved = self._manager.restore(self._saved, args=arguments)
            found, content = saved["state"], saved["record"]
            found = found if self._shared else [np.asarray(array) for array in found]
            if any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(found, arrays, strict=True)):
                raise ValueError("its arrays have other shapes")
            if _checksum(found, content["record"]) != content["sha256"]:
                raise ValueError("its checksum is wrong")
        except Exception as error:  # orbax has no error class for unreadable files
            raise CheckpointError(
                f"checkpoint: {self.directory / str(self._saved)} is corrupt and cannot be read "
                f"({type(error).__name__}: {_short(error)}); delete that folder to resume from the checkpoint before "
                "it, if there is one"
            ) from error
        restored = iter(found)
        state = [_like(next(restored), leaf) if eqx.is_array(leaf) else leaf for leaf in leaves]
        return jax.tree.unflatten(treedef, state), content["record"]

    def save(self, step: int, state: Any, record: dict[str, Any], *, now: bool) -> None:
        """Save the state of this step: always if `now`, else so rarely that saving takes a tenth of the time."""
        due = now or time.perf_counter() >= self._due
        if self._shared and not now:
            due = processes.from_first(due)
        if step == self._saved or not due:
            return
        start = time.perf_counter()
        arrays = self._arrays(state)
        content = {"record": record, "sha256": _checksum(arrays, record)}
        items = self._args.Composite(state=self._args.StandardSave(arrays), record=self._args.JsonSave(content))
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:  # several layers raise many kinds
            raise CheckpointError(
                f"checkpoint: step {step} could not be written to {self.directory} ({type(error).__name__}: "
                f"{_short(error)}); the last checkpoint is intact: free some space, and the same call resumes from it"
            ) from error
        self._saved = step
        end = time.perf_counter()
        self._due = end + _OVERHEAD * (end - start)

    def _arrays(self, state: Any) -> list[Any]:
        """The arrays of a state: on the host or, if processes share them, where they are."""
        arrays = [leaf for leaf in jax.tree.leaves(state) if eqx.is_array(leaf)]
        return [words(leaf) if self._shared else data(leaf) for leaf in arrays]

    def close(self) -> None:
        self._manager.close()
        self._unlock()


def can_checkpoint() -> bool:
    """Whether orbax is installed."""
    return importlib.util.find_spec("orbax") is not None


def _checksum(arrays: list[np.ndarray], record: dict[str, Any]) -> str:
    """A hash of all that a checkpoint holds. It depends on no bytes of orbax's files."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for array in arrays:
        add_array(digest, array)
    return digest.hexdigest()


def _wanted(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _like(array: Any, leaf: Any) -> Any:
    """An array from the disk in the place of a leaf. Only if it is committed to a device as the leaf is, JAX has its
    program already."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    if isinstance(array, jax.Array):
        put = array
    else:
        put = jax.device_put(array, leaf.sharding) if leaf.committed and not is_key else jnp.asarray(array)
    return jax.random.wrap_key_data(put, impl=jax.random.key_impl(leaf)) if is_key else put


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else text[:97] + "…"
