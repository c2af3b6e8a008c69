"""Where the files of a data set are looked for: `$BILEVEL_DATA/<folder>/`, then the user's cache."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bilevel.datasets.base import Card, DatasetError


@dataclass(frozen=True)
class Files:
    """The files of a set.

    - `alternatives`: each is a tuple of names, of files or folders, that suffices.
    - `kept`: the file that a download leaves, if there is one; it suffices too.
    """

    folder: str
    alternatives: tuple[tuple[str, ...], ...]
    kept: str = ""

    @property
    def cache(self) -> Path:
        """The user's cache of that set; it need not exist."""
        import platformdirs

        return Path(platformdirs.user_cache_dir("bilevel")) / self.folder

    def find(self) -> tuple[Path, ...] | None:
        """The paths of the first alternative that is whole, in the first place that has one; None where none has.

        **Raises** `DatasetError` where a place has some files of an alternative only.
        """
        alternatives = (*self.alternatives, *([(self.kept,)] if self.kept else []))
        root = os.environ.get("BILEVEL_DATA")
        for place in [*([Path(root) / self.folder] if root else []), self.cache]:
            missing = {names: [name for name in names if not (place / name).exists()] for names in alternatives}
            for names in alternatives:
                if not missing[names]:
                    return tuple(place / name for name in names)
            for names in alternatives:
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
