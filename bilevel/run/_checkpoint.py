"""Checkpoints: what `solve(..., checkpoint=DIR)` saves in its directory, and how it resumes from there."""

import hashlib
import importlib.util
import json
import pathlib
import re
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bilevel import _extras as extras

_MARK = "bilevel.json"  # a directory with other files and without this one is not ours
_OVERHEAD = 10  # the time between two checkpoints, as a multiple of the time to save one


class CheckpointError(RuntimeError):
    """The run cannot resume: its checkpoint is corrupt or belongs to another run. It is not modified."""


class Checkpoint:
    """A directory with the last two checkpoints of one run, written by orbax: each is complete or absent.

    `about` identifies the run, name by name. A run that differs in any entry cannot resume from the directory.
    """

    def __init__(self, directory: Any, about: dict[str, Any]):
        if not can_checkpoint():
            raise ValueError(f"checkpoint: orbax, which writes it, is missing; {extras.install('checkpoint')}")
        self.directory = pathlib.Path(directory).absolute()
        self._check_ours(about)
        import orbax.checkpoint as orbax

        self._args = orbax.args
        options = orbax.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = orbax.CheckpointManager(self.directory, options=options)
        self._due, self._saved = 0.0, self._manager.latest_step()

    def _check_ours(self, about: dict[str, Any]) -> None:
        mark = self.directory / _MARK
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            part = mark.with_suffix(".part")  # alone in the directory, it is from a process that died while writing it
            if all(path == part for path in self.directory.iterdir()):
                part.write_text(json.dumps(about, indent=2), encoding="utf-8")
                part.replace(mark)
                return
            found = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else None
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
                    f"{_short(found.get(name))}, now it is {_short(value)}; pass another directory, or the arguments "
                    "it was made with"
                )

    def load(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """The last state, in the shape of `like`, and what was saved with it; None if there is no checkpoint yet."""
        if self._saved is None:
            return None
        leaves, treedef = jax.tree.flatten(like)
        arrays = [_data(leaf) for leaf in leaves if eqx.is_array(leaf)]
        arguments = self._args.Composite(state=self._args.StandardRestore(arrays), record=self._args.JsonRestore())
        try:
            saved = self._manager.restore(self._saved, args=arguments)
            found, record = list(saved["state"]), dict(saved["record"])
            if any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(found, arrays, strict=True)):
                raise ValueError("its arrays have other shapes")
        except Exception as error:  # orbax has no error class for unreadable files
            raise CheckpointError(
                f"checkpoint: {self.directory / str(self._saved)} is corrupt and cannot be read "
                f"({type(error).__name__}: {_short(error)}); delete that folder to resume from the checkpoint before "
                "it, if there is one"
            ) from error
        restored = iter(found)
        state = [_like(next(restored), leaf) if eqx.is_array(leaf) else leaf for leaf in leaves]
        return jax.tree.unflatten(treedef, state), record

    def save(self, step: int, state: Any, record: dict[str, Any], *, now: bool) -> None:
        """Save the state of this step: always if `now`, else so rarely that saving takes a tenth of the time."""
        if step == self._saved or not (now or time.perf_counter() >= self._due):
            return
        start = time.perf_counter()
        arrays = [_data(leaf) for leaf in jax.tree.leaves(state) if eqx.is_array(leaf)]
        items = self._args.Composite(state=self._args.StandardSave(arrays), record=self._args.JsonSave(record))
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

    def close(self) -> None:
        self._manager.close()


def can_checkpoint() -> bool:
    """Whether orbax is installed."""
    return importlib.util.find_spec("orbax") is not None


def fingerprint(*parts: Any) -> str:
    """A hash of the arrays of pytrees, their shapes and their structure. Functions enter only by name."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(parts):
        if eqx.is_array(leaf) or isinstance(leaf, np.ndarray):
            array = np.ascontiguousarray(_data(leaf))
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.data if array.size else b"")
    digest.update(described(parts, short_arrays=True).encode())
    return digest.hexdigest()[:16]


def described(tree: Any, *, short_arrays: bool = False) -> str:
    """A pytree as text, which is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", eqx.tree_pformat(tree, short_arrays=short_arrays))


def _data(leaf: Any) -> Any:
    """The integers that a random key is made of; other arrays as they are."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _like(array: Any, leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return jnp.asarray(array)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else text[:97] + "…"
