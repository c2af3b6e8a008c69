"""Where the files of a data set are: `$BILEVEL_DATA/<folder>/`, or the user's cache, into which pooch downloads."""

import os
import pickle
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from bilevel.datasets.base import Card, DatasetError

# scikit-learn and pooch raise these without a network, for a damaged file, or for a file that is not the published one.
FAILURES = (OSError, EOFError, ValueError, HTTPException, zlib.error, pickle.UnpicklingError)


@dataclass(frozen=True)
class Download:
    """The one file that a download puts into the cache.

    - `file`: its name.
    - `source`: where it comes from, for the message that announces the download.
    - `downloader`: pooch calls `downloader(source, path, pooch)`, which writes the file to `path`.
    - `md5`: its MD5 sum, or None if its bytes depend on the versions of the packages that write it.
    """

    file: str
    source: str
    downloader: Callable[..., None]
    md5: str | None = None


@dataclass(frozen=True)
class Files:
    """The files of a data set.

    - `folder`: the name of the folder that contains them.
    - `alternatives`: complete sets of published files or folders, by name; any one of these sets is enough.
    - `download`: for a set that the package downloads.
    """

    folder: str
    alternatives: tuple[tuple[str, ...], ...]
    download: Download | None = None

    @property
    def cache(self) -> Path:
        """The folder in the user's cache; it need not exist."""
        import pooch

        return pooch.os_cache("bilevel") / self.folder

    def find(self) -> tuple[Path, ...] | None:
        """Paths of the first complete set of files found, or None.

        `$BILEVEL_DATA` is searched first, then the cache. The contents of the files are not checked.

        **Raises** `DatasetError` for a folder that has only some files of a set.
        """
        root = _root()
        folders = {root / self.folder: self.alternatives} if root else {}
        folders[self.cache] = (*self.alternatives, *([(self.download.file,)] if self.download else []))
        for folder, alternatives in folders.items():
            missing = {names: [name for name in names if not _is_there(folder / name)] for names in alternatives}
            for names in alternatives:
                if not missing[names]:
                    return tuple(folder / name for name in names)
            for names in alternatives:
                if len(missing[names]) < len(names):
                    raise DatasetError(
                        f"{self.folder}: {folder} has no {', '.join(missing[names])}; put all of these files there: "
                        f"{', '.join(names)}"
                    )
        return None

    def need(self) -> tuple[Path, ...]:
        """The same paths, after a download if there is no complete set of files.

        A file that was downloaded before is checked, and downloaded again if its sum is wrong.

        **Raises** `DatasetError`, which says what to put where.
        """
        found = self.find()
        if self.download is None:
            if found is None:
                raise self._error("the package does not download it")
            return found
        if found is None or found == (self.cache / self.download.file,):
            return (self._fetch(self.download),)
        return found

    def _fetch(self, download: Download) -> Path:
        import pooch

        store = pooch.create(
            self.cache,
            base_url="",
            registry={download.file: download.md5 and f"md5:{download.md5}"},
            urls={download.file: download.source},
        )
        try:
            return Path(store.fetch(download.file, downloader=download.downloader))
        except FAILURES as error:
            raise self._error(f"it could not be downloaded ({error})") from error

    def _error(self, why: str) -> DatasetError:
        """An error that says which files to put where; `why` says why they were not downloaded."""
        root, name = os.environ.get("BILEVEL_DATA"), self.folder
        shown = (
            f"{Path(root).expanduser() / name} ($BILEVEL_DATA/{name})"
            if root
            else f"$BILEVEL_DATA/{name} (which is not set)"
        )
        files = "; or ".join(", ".join(names) for names in self.alternatives)
        return DatasetError(
            f"{name}: neither in {shown} nor in {self.cache}, and {why}. Put {files} into a folder {name!r}, and set "
            "BILEVEL_DATA to the folder that contains it; or put the files into that cache. `bilevel data` says who "
            "published them"
        )


def _root() -> Path | None:
    """`$BILEVEL_DATA`, if it is set."""
    root = os.environ.get("BILEVEL_DATA")
    return Path(root).expanduser() if root else None


def _is_there(path: Path) -> bool:
    """Whether there is a file or a folder; to open anything else, such as a named pipe, may last for ever."""
    return path.is_file() or path.is_dir()


def check_splits(card: Card, found: Mapping[str, int]) -> None:
    """Compare the sizes of the parts with those of the published parts.

    **Raises** `DatasetError` if they differ.
    """
    for part, published in card.splits.items():
        if found[part] != published:
            raise DatasetError(
                f"{card.name}: {found[part]:,} in the part {part!r}, where the published one has {published:,}; "
                "its file is damaged, or is another file: get the published one again"
            )
