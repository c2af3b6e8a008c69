"""Where the files of a data set are looked for: `$BILEVEL_DATA/<folder>/`, then the user's cache."""

import os
import pickle
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from bilevel.datasets.base import Card, DatasetError

# What scikit-learn and pooch raise where there is no network, a torn file, or another file.
FAILURES = (OSError, EOFError, ValueError, HTTPException, zlib.error, pickle.UnpicklingError)


@dataclass(frozen=True)
class Files:
    """The files of a set; each alternative is a tuple of names, of files or folders, that suffices."""

    folder: str
    alternatives: tuple[tuple[str, ...], ...]

    @property
    def cache(self) -> Path:
        """The user's cache of that set; it need not exist."""
        import pooch

        return pooch.os_cache("bilevel") / self.folder

    def find(self) -> tuple[Path, ...] | None:
        """The paths of the first complete set of files found, or None.

        **Raises** `DatasetError` where a place has some files of an alternative only.
        """
        root = os.environ.get("BILEVEL_DATA")
        for place in [*([Path(root) / self.folder] if root else []), self.cache]:
            missing = {names: [name for name in names if not (place / name).exists()] for names in self.alternatives}
            for names in self.alternatives:
                if not missing[names]:
                    return tuple(place / name for name in names)
            for names in self.alternatives:
                if len(missing[names]) < len(names):
                    lacks, needs = ", ".join(missing[names]), ", ".join(names)
                    raise DatasetError(f"{self.folder}: {place} has no {lacks}; it needs all of {needs}")
        return None

    def need(self) -> tuple[Path, ...]:
        """The same paths; `DatasetError` with what to put where if there are none."""
        found = self.find()
        if found is None:
            raise self.error("the package does not download it")
        return found

    def download(self, file: str, source: str, fetch: Callable[[str, str], object], md5: str | None = None) -> Path:
        """Has `fetch(scratch, path)` write this file, and keeps it in the cache: whole, of that sum, or not at all.

        pooch says on standard error what is downloaded, from that `source`; the scratch folder is deleted.

        **Raises** `DatasetError` with what to put where.
        """
        import pooch

        def downloader(_url: str, path: str, _pooch: object) -> None:
            with tempfile.TemporaryDirectory() as scratch:
                fetch(scratch, path)

        registry = {file: md5 and f"md5:{md5}"}
        try:
            cache = pooch.create(self.cache, base_url="", registry=registry, urls={file: source})
            return Path(cache.fetch(file, downloader=downloader))  # pyright: ignore[reportArgumentType]
        except FAILURES as error:
            raise self.error(f"it could not be downloaded ({error})") from error

    def error(self, why: str) -> DatasetError:
        """What to put where; `why` says why it was not downloaded."""
        root, name = os.environ.get("BILEVEL_DATA"), self.folder
        shown = f"{Path(root) / name} ($BILEVEL_DATA/{name})" if root else f"$BILEVEL_DATA/{name} (which is not set)"
        files = "; or ".join(", ".join(names) for names in self.alternatives)
        return DatasetError(
            f"{name}: neither in {shown} nor in {self.cache}, and {why}. Put {files} into a folder "
            f"{name!r}, and set BILEVEL_DATA to the folder that holds it; or put them into that cache"
        )


def check_splits(card: Card, found: Mapping[str, int]) -> None:
    """`DatasetError` unless the parts are as large as the published ones."""
    for part, published in card.splits.items():
        if found[part] != published:
            raise DatasetError(
                f"{card.name}: {found[part]:,} in the part {part!r}, where the published one has {published:,}; "
                "its file is torn or another one: fetch it again"
            )
