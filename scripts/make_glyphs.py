"""Renders the few-shot data set "glyphs" of `bilevel/datasets/` from free typefaces.

    python scripts/make_glyphs.py FONTS [--sheet docs/glyphs.png]

Needs the Python packages Pillow, fontTools, Brotli and NumPy. FONTS is a folder with one folder per package of
`PACKAGES`, unpacked: those with an @ are the Fontsource project's JavaScript packages (with their LICENSE,
metadata.json, unicode.json and files/), the others are of Debian (with their usr/). The result depends on that folder
alone. A typeface whose license is none of `LICENSES` is refused.

**Images.** A character is drawn large, cropped, scaled with its proportions kept until its longer side has
`SIZE` − 2 pixels, centered, and made black and white: as many of the darkest pixels as the glyph's area. So hairlines
survive and weights stay different.

**Classes.** A class is a character of a script; `SCRIPTS` says which split a script belongs to. Two characters are
one class when they are listed in `HOMOGLYPHS`, or when their images are alike: the mean over shared typefaces
(at least `SHARED`) of the cosine of the blurred images is `ALIKE` or more; with fewer shared typefaces, the mean over
the images of one of their best match in the other, the lower of both ways. The first character in the order of
`SCRIPTS` stays, so that nothing like a training class is in validation or test.

**Typefaces.** Of every class `PER_CLASS` typefaces stay, one weight of a family. Dropped before: images that repeat
another typeface's outline (at least `SAME` of the ink in common at four times the size, or at most `NEAR` pixels of
the final image different), images by which a typeface draws two classes the same (capitals for small letters, empty
boxes), and digits that are the European ones (`BORROWED` on average). A class with fewer left is dropped. Of more,
evenly spaced ones in the order of `PACKAGES` stay.
"""

import argparse
import csv
import gzip
import json
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from glyphs_tables import DRAWN_BY, HOMOGLYPHS, PACKAGES, SCRIPTS
from PIL import Image, ImageDraw, ImageFont

SIZE, PER_CLASS, FINE = 20, 20, 4
ALIKE, SHARED, SAME, NEAR, BORROWED = 0.92, 5, 0.95, 6, 0.93
OUT = Path(__file__).parent.parent / "bilevel" / "datasets"
LICENSES = {r"SIL Open Font License,? Version 1\.1|License: OFL-1\.1": "OFL-1.1", "Apache License": "Apache-2.0"}


@dataclass
class Typeface:
    name: str
    group: str
    package: str  # with its version
    license: str
    copyright: str
    files: dict[str, Path]  # character ↦ the file that draws it
    scripts: set[str] = field(default_factory=set)


def read_typefaces(folder: Path) -> list[Typeface]:
    """Every typeface of `PACKAGES`, in order, with the files that draw the characters of `SCRIPTS`."""
    wanted = set("".join(characters for _, characters in SCRIPTS.values()))
    found = []
    for group, entries in PACKAGES.items():
        for entry in entries.split():
            package, _, stems = entry.partition(":")
            read = _read_npm if package.startswith("@") else _read_debian
            found += [read(folder / package, group, package, stem, wanted) for stem in stems.split(",")]
    return found


def _read_npm(root: Path, group: str, package: str, _: str, wanted: set[str]) -> Typeface:
    about = json.loads((root / "metadata.json").read_text())
    files = sorted((root / "files").glob("*-normal.woff2"))
    if "variable" in package:
        files = [file for file in files if "-wght-" in file.name]
    else:
        weights = {int(file.stem.split("-")[-2]) for file in files}
        weight = min(weights, key=lambda weight: (abs(weight - 400), weight))
        files = [file for file in files if file.stem.endswith(f"-{weight}-normal")]
    ranges = {key.strip("[]"): value for key, value in json.loads((root / "unicode.json").read_text()).items()}
    drawn = {}
    for file in files:
        subset = file.stem.removeprefix(package.split("/")[1] + "-").rsplit("-", 2)[0]
        if subset not in ranges or _meets(ranges[subset], wanted):
            drawn = dict.fromkeys(_characters(file) & wanted, file) | drawn
    terms = (root / "LICENSE").read_text()
    version = json.loads((root / "package.json").read_text())["version"]
    header = terms.partition("\n")[0]
    owner = header if "copyright" in header.lower() else _name(files[0], 0)
    name = about.get("family") or _name(files[0], 1)
    return Typeface(name, group, f"{package} {version}", _license(root, terms), _plain(owner), drawn)


def _read_debian(root: Path, group: str, package: str, stem: str, wanted: set[str]) -> Typeface:
    (file,) = [path for path in sorted(root.rglob(f"{stem}.*")) if path.suffix in (".ttf", ".otf", ".ttc")][-1:]
    doc = root / "usr/share/doc" / package
    changes = gzip.decompress((doc / "changelog.Debian.gz").read_bytes()).decode()
    version = re.search(r"\((.*?)\)", changes)
    terms = (doc / "copyright").read_text()
    owner = _name(file, 0) or re.search(r"Copyright:\s*(.*)", terms)[1]
    drawn = dict.fromkeys(_characters(file) & wanted, file)
    return Typeface(_name(file, 1), group, f"{package} {version[1]}", _license(root, terms), _plain(owner), drawn)


def _meets(ranges: str, wanted: set[str]) -> bool:
    """Whether "U+0E01-0E5B,U+200C" has one of the characters."""
    ends = [part.strip()[2:].split("-") for part in ranges.split(",")]
    return any(int(end[0], 16) <= ord(character) <= int(end[-1], 16) for end in ends for character in wanted)


def _characters(file: Path) -> set[str]:
    return set(map(chr, TTFont(file, lazy=True, fontNumber=0).getBestCmap()))


def _name(file: Path, number: int) -> str:
    return (TTFont(file, lazy=True, fontNumber=0)["name"].getDebugName(number) or "").strip()


def _license(root: Path, terms: str) -> str:
    for words, found in LICENSES.items():
        if re.search(words, terms, re.IGNORECASE):
            return found
    raise ValueError(f"{root}: its license is none of {', '.join(LICENSES.values())}")


def _plain(owner: str) -> str:
    """A copyright line without addresses, which change, and said once, not once per file."""
    line = re.sub(r"[(<\[]?(https?://|www\.|\S+@)[^\s,]+|\b\S+\.(ttf|com|org)\b\S*", "", owner.splitlines()[0])
    line = re.sub(r"\s+([,.)])", r"\1", re.sub(r"\s+", " ", line))
    parts = [part.strip(" ,.:;") for part in re.split(r"(?=\bCopyright \(?[c0-9])", line)]
    return ". ".join(dict.fromkeys(part for part in parts if part))


@cache
def _font(file: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, 200, layout_engine=ImageFont.Layout.BASIC)


def draw(file: Path, character: str) -> np.ndarray | None:
    """The character in gray, (SIZE · FINE)² with values 0 to 1; None where there is no ink."""
    mask = _font(file).getmask(character, "L")
    ink = np.array(mask, np.uint8).reshape(mask.size[::-1])
    if not (ink > 127).any():
        return None
    rows, columns = np.flatnonzero((ink > 127).any(1)), np.flatnonzero((ink > 127).any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = (SIZE - 2) * FINE
    height, width = (max(1, round(length * side / max(ink.shape))) for length in ink.shape)
    small = np.array(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX))
    canvas = np.zeros((SIZE * FINE, SIZE * FINE))
    top, left = (SIZE * FINE - height) // 2, (SIZE * FINE - width) // 2
    canvas[top : top + height, left : left + width] = small / 255
    return canvas


def black_and_white(gray: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE) of 0 and 1: the darkest pixels, as many as the area of the glyph."""
    pixels = gray.reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))
    darkest = np.sort(pixels, axis=None)[-max(1, round(pixels.sum()))]
    return (pixels >= max(darkest, 0.1)).astype(np.uint8)


@dataclass
class Character:
    text: str
    script: str
    gray: dict[int, np.ndarray]  # typeface ↦ packed bits of (SIZE · FINE)²
    small: dict[int, np.ndarray]  # typeface ↦ (SIZE, SIZE)


def draw_all(typefaces: list[Typeface]) -> list[Character]:
    """Every character, by every typeface that has it and was drawn for it."""
    drawn = []
    for script, (_, characters) in SCRIPTS.items():
        borrowed = [_borrowed(typeface, script) for typeface in typefaces]
        for text in characters:
            one = Character(text, script, {}, {})
            for number, typeface in enumerate(typefaces):
                own = typeface.files.keys() - borrowed[number]
                if text in own and typeface.group in DRAWN_BY[script].split():
                    gray = draw(typeface.files[text], text)
                    if gray is not None:
                        one.gray[number] = np.packbits(gray > 0.5)
                        one.small[number] = black_and_white(gray)
            if len(one.small) >= PER_CLASS:
                drawn.append(one)
            else:
                print(f"{text} ({script}) has {len(one.small)} typefaces: dropped")
    return drawn


def _borrowed(typeface: Typeface, script: str) -> set[str]:
    """The script's digits, where the typeface just repeats the European ones: they are alike on average."""
    pairs = {text: str(unicodedata.digit(text, "")) for text in SCRIPTS[script][1]}
    pairs = {text: digit for text, digit in pairs.items() if digit not in ("", text)}
    pairs = {text: digit for text, digit in pairs.items() if {text, digit} <= typeface.files.keys()}
    if not pairs:
        return set()
    own, european = (blur(np.stack([_bits(typeface, text) for text in texts])) for texts in (pairs, pairs.values()))
    return set(pairs) if (own * european).sum(1).mean() >= BORROWED else set()


def _bits(typeface: Typeface, text: str) -> np.ndarray:
    gray = draw(typeface.files[text], text)
    return np.ones((SIZE, SIZE)) if gray is None else black_and_white(gray)


def blur(images: np.ndarray) -> np.ndarray:
    """(n, SIZE, SIZE) smoothed by (1, 2, 1)/4 along both axes, as unit vectors (n, SIZE²)."""
    images = np.asarray(images, np.float32)
    for axis in (1, 2):
        padded = np.pad(images, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        parts = [padded.take(range(k, k + SIZE), axis) for k in range(3)]
        images = (parts[0] + 2 * parts[1] + parts[2]) / 4
    flat = images.reshape(len(images), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def likeness(characters: list[Character]) -> np.ndarray:
    """(n, n): how alike two characters are; see the top of this file."""
    n = len(characters)
    together, shared = np.zeros((n, n), np.float32), np.zeros((n, n), np.int32)
    for typeface in sorted({number for one in characters for number in one.small}):
        rows = np.array([row for row, one in enumerate(characters) if typeface in one.small])
        unit = blur(np.stack([characters[row].small[typeface] for row in rows]))
        together[np.ix_(rows, rows)] += unit @ unit.T
        shared[np.ix_(rows, rows)] += 1
    units = [blur(np.stack(list(one.small.values()))) for one in characters]
    starts = np.cumsum([0] + [len(unit) for unit in units[:-1]])
    everything = np.concatenate(units).T
    best = np.stack([np.maximum.reduceat(unit @ everything, starts, axis=1).mean(0) for unit in units])
    return np.where(shared >= SHARED, together / np.maximum(shared, 1), np.minimum(best, best.T))


def merge(characters: list[Character]) -> list[Character]:
    """The first of every class, in order."""
    alike = likeness(characters) >= ALIKE
    listed = {text: group for group in HOMOGLYPHS for text in group}
    kept: list[int] = []
    for row, one in enumerate(characters):
        same = [k for k in kept if alike[row, k] or characters[k].text in listed.get(one.text, "")]
        if not same:
            kept.append(row)
        elif characters[same[0]].script != one.script or characters[same[0]].text not in listed.get(one.text, ""):
            print(f"{one.text} ({one.script}) is like {characters[same[0]].text} ({characters[same[0]].script})")
    return [characters[row] for row in kept]


def drop_confusions(classes: list[Character]) -> None:
    """Removes the images by which a typeface draws two classes the same."""
    for typeface in sorted({number for one in classes for number in one.small}):
        having = [one for one in classes if typeface in one.small]
        bits = np.stack([one.small[typeface].ravel() for one in having]).astype(np.int32)
        ink = bits.sum(1)
        apart = ink[:, None] + ink[None] - 2 * bits @ bits.T
        np.fill_diagonal(apart, SIZE * SIZE)
        for row in np.flatnonzero(apart.min(1) <= NEAR):
            del having[row].small[typeface]


def choose(one: Character) -> list[int]:
    """PER_CLASS typefaces whose images are distinct, evenly spaced; fewer where there are fewer."""
    distinct: list[int] = []
    for typeface, image in one.small.items():
        fine = one.gray[typeface]
        for other in distinct:
            common = np.bitwise_count(fine & one.gray[other]).sum() / np.bitwise_count(fine | one.gray[other]).sum()
            if common >= SAME or (image != one.small[other]).sum() <= NEAR:
                break
        else:
            distinct.append(typeface)
    n = len(distinct)
    return distinct if n < PER_CLASS else [distinct[k * n // PER_CLASS] for k in range(PER_CLASS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("fonts", type=Path, help="folder with the unpacked packages")
    parser.add_argument("--sheet", type=Path, help="where to write a picture of some classes")
    settings = parser.parse_args()
    typefaces = read_typefaces(settings.fonts)
    classes = merge(draw_all(typefaces))
    drop_confusions(classes)
    chosen = [(one, choose(one)) for one in classes]
    for one, numbers in chosen:
        if len(numbers) < PER_CLASS:
            print(f"{one.text} ({one.script}) has {len(numbers)} typefaces: dropped")
    chosen = [(one, numbers) for one, numbers in chosen if len(numbers) == PER_CLASS]
    for one, numbers in chosen:
        for number in numbers:
            typefaces[number].scripts.add(one.script)
    write(chosen, typefaces)
    if settings.sheet:
        write_sheet(chosen, settings.sheet)


def write(chosen: list[tuple[Character, list[int]]], typefaces: list[Typeface]) -> None:
    """The images with 8 pixels a byte, and the table of the typefaces that are in them."""
    used = [number for number, typeface in enumerate(typefaces) if typeface.scripts]
    arrays = {"size": np.array(SIZE)}
    for split in ("train", "validation", "test"):
        part = [(one, numbers) for one, numbers in chosen if SCRIPTS[one.script][0] == split]
        images = np.stack([[one.small[number].ravel() for number in numbers] for one, numbers in part])
        arrays[split] = np.packbits(images, axis=-1)
        arrays[f"{split}_typefaces"] = np.array([[used.index(k) for k in numbers] for _, numbers in part], np.uint8)
        arrays[f"{split}_characters"] = np.array([one.text for one, _ in part])
        arrays[f"{split}_scripts"] = np.array([one.script for one, _ in part])
        print(split, len(part), {script: [o.script for o, _ in part].count(script) for script in SCRIPTS})
    np.savez_compressed(OUT / "glyphs.npz", **arrays)
    with open(OUT / "glyphs_fonts.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["typeface", "scripts", "license", "copyright", "package"])
        for typeface in (typefaces[number] for number in used):
            scripts = " ".join(script for script in SCRIPTS if script in typeface.scripts)
            table.writerow([typeface.name, scripts, typeface.license, typeface.copyright, typeface.package])
    print((OUT / "glyphs.npz").stat().st_size, "bytes,", len(used), "typefaces")


def write_sheet(chosen: list[tuple[Character, list[int]]], path: Path) -> None:
    """Of every split 28 classes, a column each, as many of one script as of another; a row per typeface."""
    columns, rows, cell, label = 28, 6, 2 * (SIZE + 2), 22
    sheet = Image.new("L", (columns * cell, 3 * (rows * cell + label)), 255)
    for band, split in enumerate(("train", "validation", "test")):
        parts = [[pair for pair in chosen if pair[0].script == script] for script in SCRIPTS]
        parts = [part for part in parts if part and SCRIPTS[part[0][0].script][0] == split]
        counts = [columns * (k + 1) // len(parts) - columns * k // len(parts) for k in range(len(parts))]
        shown = [part[k * len(part) // n] for part, n in zip(parts, counts, strict=True) for k in range(n)]
        top = band * (rows * cell + label)
        ImageDraw.Draw(sheet).text(
            (4, top + 3), f"{split}: {', '.join(part[0][0].script for part in parts)}", 0, size=15
        )
        for column, (one, numbers) in enumerate(shown):
            for row in range(rows):
                image = Image.fromarray(255 - 255 * one.small[numbers[row * PER_CLASS // rows]])
                at = (column * cell + 2, top + label + row * cell + 2)
                sheet.paste(image.resize((2 * SIZE, 2 * SIZE), Image.Resampling.NEAREST), at)
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
