"""One run in several processes: all of them stop, save and are interrupted at the same step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bilevel import _processes as processes
from bilevel.run._loop import Record
from bilevel.run._solution import NAMES, RESULTS, name_of

_FAILED, _INTERRUPTED = len(NAMES), len(NAMES) + 1


class OtherProcessError(RuntimeError):
    """Another process of the run has failed or is gone."""


class Together:
    """After each row, the processes tell each other what their callbacks want and whether all is well.

    Between two rows Ctrl-C only leaves a note, because a process that stops alone leaves the others waiting for it.
    """

    def __init__(self) -> None:
        self._interrupted, self.ended = False, False  # `ended`: all processes know that the run ends here

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note Ctrl-C instead of raising it, where it would be raised in this thread; and name what a process sees if
        another one is gone."""
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, self._note) if main else None
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            raise OtherProcessError(
                "the processes of this run could not compute on together, probably because one of them is gone "
                f"({error}); end all of them and start them again: with a checkpoint, the same call resumes the run"
            ) from error
        finally:
            if main:
                signal.signal(signal.SIGINT, before)

    def _note(self, *_: Any) -> None:
        self._interrupted = True

    def agree(self, record: Record) -> None:
        """The same result for each process: the failure or wish of the first process that has one."""
        own = _INTERRUPTED if self._interrupted else NAMES.index(name_of(record.result))
        codes = self._exchange(own)
        self.ended = _FAILED in codes or _INTERRUPTED in codes
        if _FAILED in codes:
            raise OtherProcessError(f"process {codes.index(_FAILED)} of this run has failed; its error says why")
        if _INTERRUPTED in codes:
            raise KeyboardInterrupt
        record.result = getattr(RESULTS, NAMES[next((code for code in codes if code), 0)])

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the others of an error that is raised inside, so that they do not wait."""
        try:
            yield
        except BaseException:
            self._exchange(_FAILED)
            self.ended = True
            raise

    def _exchange(self, code: int) -> list[int]:
        return processes.gathered(np.int32(code)).reshape(-1).tolist()
