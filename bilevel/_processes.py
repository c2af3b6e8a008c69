"""What the processes of `jax.distributed` agree on. Each runs the same script, and waits for the others where they
compute together."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh


def shared(mesh: Mesh | None) -> bool:
    """Whether some of the devices belong to another process."""
    return mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat)


def first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def gathered(value: Any) -> np.ndarray:
    """The value of each process, one after the other. Every process must ask."""
    from jax.experimental import multihost_utils

    words = np.atleast_1d(np.asarray(value))
    bits = multihost_utils.process_allgather(words.view(np.uint8))  # bytes: JAX would cut numbers of 64 bits
    return np.asarray(bits).reshape(jax.process_count(), -1).view(words.dtype)


def from_first(value: Any) -> Any:
    """The number that the first process has."""
    return gathered(value)[0, 0].item()
