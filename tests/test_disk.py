"""Rows on disk: what each kind of source gives, and what it refuses."""

import tracemalloc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bilevel as bl
from bilevel import _readers

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
ROWS = {"a": RNG.normal(size=(60, 3)).astype(np.float32), "b": RNG.integers(0, 9, 60)}


class Items:
    """Rows one by one, as torch's and grain's map-style data sets give them."""

    def __init__(self, rows=ROWS):
        self.rows = rows

    def __len__(self):
        return len(self.rows["b"])

    def __getitem__(self, i):
        if not isinstance(i, int):
            raise TypeError(f"an index is an int, not {i!r}")
        return {"a": self.rows["a"][i].tolist(), "b": int(self.rows["b"][i])}


class Several(Items):
    """Rows by lists of indices, as data sets of Hugging Face give them."""

    def __getitems__(self, numbers):
        return [super(Several, self).__getitem__(i) for i in numbers]


class Chunked:
    """An array that is indexed as those of zarr."""

    def __init__(self, array):
        self._array, self.shape, self.dtype, self.oindex = array, array.shape, array.dtype, array

    def __getitem__(self, i):
        raise AssertionError("oindex is the one along an axis")


def saved(folder, name, array):
    np.save(folder / f"{name}.npy", array)
    return folder / f"{name}.npy"


def parquet(folder, columns, **options):
    pq.write_table(pa.table(columns), folder / "rows.parquet", **options)
    return folder / "rows.parquet"


def of_kind(kind, folder):
    paths = {name: saved(folder, name, array) for name, array in ROWS.items()}
    if kind == "memmap":
        return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
    if kind == "fortran":
        return {name: saved(folder, name, np.asfortranarray(array)) for name, array in ROWS.items()}
    if kind == "swapped":
        return {name: saved(folder, name, a.astype(a.dtype.newbyteorder())) for name, a in ROWS.items()}
    if kind == "parquet":
        return str(parquet(folder, {"b": ROWS["b"], "a": ROWS["a"].tolist()}, row_group_size=7))
    if kind == "fixed":
        values = pa.FixedSizeListArray.from_arrays(ROWS["a"].ravel(), 3)
        return parquet(folder, {"a": values, "b": ROWS["b"]})
    if kind == "chunked":
        return {name: Chunked(array) for name, array in ROWS.items()}
    return {"paths": paths, "items": Items(), "several": Several()}[kind]


KINDS = ["paths", "memmap", "fortran", "swapped", "items", "several", "chunked", "parquet", "fixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_source_gives_the_rows_of_memory(kind, tmp_path):
    stored, held = bl.Rows(bl.OnDisk(of_kind(kind, tmp_path))), bl.Rows(ROWS)
    assert stored.length == held.length
    for batch in (stored.draw(KEY, 20), jax.jit(lambda key: stored.draw(key, 20))(KEY)):
        jax.tree.map(np.testing.assert_array_equal, batch, held.draw(KEY, 20))
        assert jax.tree.map(lambda leaf: leaf.dtype, batch) == jax.tree.map(lambda leaf: leaf.dtype, batch)
    jax.tree.map(np.testing.assert_array_equal, stored.loaded().arrays, held.arrays)


@pytest.mark.parametrize("source", [bl.Blocks, bl.Shuffled, bl.ShuffledBlocks])
@pytest.mark.parametrize("strata", [1, 3])
def test_each_source_draws_from_them(source, strata):
    stored, held = source(bl.OnDisk(ROWS), strata=strata), source(ROWS, strata=strata)
    keys = jax.random.split(KEY, 4)
    found, expected = (jax.vmap(lambda key, s=s: s.draw(key, 6).rows)(keys) for s in (stored, held))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_many_rows_are_read_by_threads(monkeypatch):
    monkeypatch.setattr(_readers, "_PART", 64)
    reader = _readers.reader_of(ROWS)
    found = reader.read(np.arange(1, 50), 55, lambda: False)
    np.testing.assert_array_equal(found[0][:49], ROWS["a"][1:50])
    assert len(found[0]) == 55
    with pytest.raises(_readers.EndedError):
        reader.read(np.arange(50), 0, lambda: True)


def test_pages_of_large_files_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(_readers, "_SMALL", 0)
    monkeypatch.setattr(_readers, "_TOUCHED", 0)
    source = bl.Rows(bl.OnDisk({name: saved(tmp_path, name, array) for name, array in ROWS.items()}))
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, source.draw(KEY, 20), bl.Rows(ROWS).draw(KEY, 20))


def test_row_groups_that_are_not_kept_are_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(_readers, "_DECODED", 0)
    source = bl.Rows(bl.OnDisk(of_kind("parquet", tmp_path)))
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, source.draw(KEY, 20), bl.Rows(ROWS).draw(KEY, 20))
    assert len(source.arrays.store._reader._groups) == 1


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (3, TypeError, "source: got a int; pass the path"),
        ("rows.csv", ValueError, r"source: got 'rows.csv'; pass .npy files"),
        ("rows.npz", ValueError, "save each array of an .npz"),
        ({"a": ROWS["a"], "b": Items()}, TypeError, r"source\['b'\]: got a Items; pass arrays or paths"),
        ({"a": ROWS["a"], "b": ROWS["b"][:9]}, ValueError, "one leading axis of rows"),
        ({}, ValueError, "shapes none"),
        (np.zeros((0, 3)), ValueError, "zero rows"),
        (Items({"a": np.zeros((0, 3)), "b": np.zeros(0)}), ValueError, "zero rows"),
        (np.array(["x", "y"]), TypeError, "encode it as numbers"),
    ],
)
def test_what_is_no_source_is_refused(source, error, said):
    with pytest.raises(error, match=said):
        bl.OnDisk(source)


def read_all(source):
    return bl.Rows(bl.OnDisk(source)).loaded()


def changed(name, row, value, dtype=None):
    array = ROWS[name].astype(dtype or ROWS[name].dtype)
    array[row] = value
    return {**ROWS, name: array}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (changed("a", 17, np.nan), "row 17 contains NaN or infinity as float32"),
        (changed("a", 17, 1e300, np.float64), "row 17 contains NaN or infinity as float32"),
        (changed("b", 5, 2**40), "row 5 does not fit in int32"),
        (Items({**ROWS, "a": [*ROWS["a"][:9], np.zeros(2), *ROWS["a"][10:]]}), "row 9 has arrays of shapes"),
        (Items({**ROWS, "a": ROWS["a"][:30]}), "reading row 30 failed: IndexError"),
        (Several({**ROWS, "a": ROWS["a"][:30]}), "reading rows 0 to 59 failed: IndexError"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(source, said):
    with pytest.raises(bl.ReadError, match=f"data: {said}"):
        read_all(source)


def test_large_numbers_that_are_finite_are_no_error():
    read_all(np.full((4, 2), 3e38, np.float32))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": [1.0, None]}, "row 1 has no value in the column 'a'"),
        ({"a": ["x", "y"]}, "the column 'a' is of type string; encode it"),
        ({"a": [[1.0], [1.0, 2.0]]}, "row 1 has 2 values in the column 'a', and another 1"),
    ],
)
def test_a_column_that_cannot_be_used_is_named(columns, said, tmp_path):
    with pytest.raises(bl.ReadError, match=said):
        bl.OnDisk(parquet(tmp_path, columns))


def test_all_rows_at_once_are_refused():
    source = bl.OnDisk(ROWS)
    with pytest.raises(ValueError, match=r"batch_size: got None.*they are on disk"):
        bl.Level(lambda x, y, batch: y, data=source)
    level = bl.Level(lambda x, y, batch: y, data=source, batch_size=4)
    for all_rows in (level.all_rows, lambda: level.with_batch_size(None)):
        with pytest.raises(ValueError, match=r"data: all 60 rows .* are needed at once"):
            all_rows()


def test_a_tree_with_rows_on_disk_in_it_is_refused():
    with pytest.raises(TypeError, match="pass one for all"):
        bl.Rows({"a": bl.OnDisk(ROWS["a"]), "b": jnp.zeros(60)})


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("view", [np.s_[:], np.s_[:, :9], np.s_[::2]])
def test_a_view_of_an_array_is_not_copied_as_a_whole(order, view, tmp_path):
    array = np.asarray(RNG.normal(size=(4096, 128)), order=order)[view]  # 2 to 4 MB
    reader = _readers.reader_of(array)
    tracemalloc.start()
    (found,) = reader.read(np.arange(0, 16, 3), 0, lambda: False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, array[:16:3])
    assert peak < 100_000


def test_a_file_that_is_read_again_and_again_is_decoded_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(_readers, "_DECODED", 5 * 7 * 20)  # of nine row groups, five
    reader = bl.OnDisk(of_kind("parquet", tmp_path)).store._reader
    decoded = []
    read = reader._file.read_row_group
    reader._file = SimpleNamespace(read_row_group=lambda group: decoded.append(group) or read(group))
    for _ in range(4):
        found = reader.read(np.arange(60), 0, lambda: False)
    np.testing.assert_array_equal(found[1], ROWS["b"])
    assert len(decoded) < 30  # four passes over nine groups
    reader.release()
    assert not reader._groups
