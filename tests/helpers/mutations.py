"""Breaks files: valid ones by a few changes each, drawn from a seed, and a few built to do harm."""

from __future__ import annotations

import copy
import json
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

EDGES = (0, 1, 2, 255, 65_535, 100_000, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
"""Numbers at which sizes, counts and offsets overflow, or ask for more than there is."""

HOSTILE = (
    None, True, False, -1, 0, 0.5, 1e-300, 1e308, float("nan"), float("inf"), 10**25, 2**63, "", " ", "\0", "\ud800",
    "x" * 5000, "Tumor", "../../etc", "=1+1", "nan", [], {}, [[]], [None], {"a": 1}, [1e9, 1e9], [10**30, "a"],
)  # fmt: skip
"""What may stand in JSON in the place of anything."""

TEXTS = (
    "", "-1", "0", "1e-300", "1e400", "nan", "inf", "9" * 5000, "true", '""', '"\\u0000"', "[]", "[[]]", "{}",
    "{a = 1}", "[" * 3000 + "]" * 3000, "1979-05-27", '"' + "x" * 5000 + '"', "0x7fffffffffffffff", "100000",
    "65536", "\x00", "'''", "[1, 2", "=", "\ufeff", "\u2028", "[1e9, 1e9]", '"nowhere"', "-0.0", "9223372036854775808",
)  # fmt: skip
"""What may stand in TOML in the place of a value, or in CSV in that of a cell."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change a few bytes, or cut, repeat, drop and overwrite some, whatever they mean."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, length = rng.randrange(len(out) or 1), rng.choice((1, 2, 4, 8, 64, 500))
        match rng.randrange(8):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + length] = rng.randbytes(length)
            case 2:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(EDGES) % (1 << 8 * size)
                out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length] * rng.choice((1, 3))
            case 5:
                del out[at:]
            case 6:
                out[at : at + length] = bytes(length)
            case _:
                other = rng.randrange(len(out) or 1)
                out[at : at + length] = out[other : other + length]
    return bytes(out)


def tiff_entries(content: bytes) -> list[tuple[int, str, bool]]:
    """Return where each entry of each directory is, the byte order, and whether it is one of a BigTIFF."""
    order, big = {b"II": "<", b"MM": ">"}[content[:2]], content[2:4] in {b"\x2b\0", b"\0\x2b"}
    count, offset, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    (at,), found = struct.unpack_from(order + offset, content, 8 if big else 4), []
    while at:
        (number,) = struct.unpack_from(order + count, content, at)
        start = at + struct.calcsize(count)
        found += [(start + i * entry, order, big) for i in range(number)]
        (at,) = struct.unpack_from(order + offset, content, start + number * entry)
    return found


def mutated_tiff(content: bytes, rng: random.Random) -> bytes:
    """Change tags, types, counts, values and offsets of a TIFF's directories."""
    out, entries = bytearray(content), tiff_entries(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, order, big = rng.choice(entries)
        number = rng.choice((*EDGES, rng.randrange(len(content)), rng.randrange(1 << 16)))
        wide, form = (8, "Q") if big else (4, "I")
        place, form = rng.choice(
            ((at, "H"), (at + 2, "H"), (at + 4, form), (at + 4 + wide, form), (at + 4 + wide, form))
        )
        if place == at + 2:
            number = rng.choice(tuple(_SIZES))
        struct.pack_into(order + form, out, place, number % (1 << 8 * struct.calcsize(form)))
    return bytes(out)


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """Set a tag to one value wherever it stands."""
    out = bytearray(content)
    for at, order, big in tiff_entries(content):
        if struct.unpack_from(order + "H", out, at)[0] == tag:
            wide, form = (8, "Q") if big else (4, "I")
            struct.pack_into(order + "HH" + form * 2, out, at, tag, 16 if big else 4, 1, value % (1 << 8 * wide))
    return bytes(out)


def with_count(content: bytes, tag: int, count: int) -> bytes:
    """Set the number of values of a tag wherever it stands."""
    out = bytearray(content)
    for at, order, big in tiff_entries(content):
        if struct.unpack_from(order + "H", out, at)[0] == tag:
            struct.pack_into(order + "QI"[not big], out, at + 4, count)
    return bytes(out)


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """Replace, drop or repeat parts of a JSON document, or change its bytes."""
    if rng.random() < 0.25:
        return mutated_bytes(content, rng)
    document = {"": json.loads(content)}
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = list(_places(document))
        holder, key = rng.choice(places)
        match rng.randrange(5):
            case 0 if holder is not document:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder[key:key] = [holder[key]] * rng.choice((1, 7))
            case 2:
                other, name = rng.choice(places)
                holder[key] = json.loads(json.dumps(other[name]))
            case _:
                holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return json.dumps(document[""]).encode()


_VALUES = re.compile(rb'"[^"]*"')


def mutated_outlines(content: bytes, rng: random.Random) -> bytes:
    """Break a file of any program as what it is: JSON, XML, a table, or bytes."""
    if content[:1] in {b"{", b"["}:
        return mutated_json(content, rng)
    if content[:1] != b"<":
        return mutated_csv(content, rng) if content[:4] != b"PAR1" else mutated_bytes(content, rng)
    if rng.random() < 0.3:
        return mutated_bytes(content, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not (values := [*_VALUES.finditer(content)]):
            break
        start, stop = rng.choice(values).span()
        text = rng.choice((*TEXTS, "1e9", "-1e9", "Spline", "Ellipse", "1", "Rectangle")).replace('"', "")
        content = content[: start + 1] + text.encode("utf-8", "surrogatepass") + content[stop - 1 :]
    return content


def _places(value):
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def mutated_toml(content: bytes, rng: random.Random) -> bytes:
    """Replace values and names of a TOML document, or change its bytes."""
    if rng.random() < 0.25:
        return mutated_bytes(content, rng)
    lines = content.decode().splitlines()
    values = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    for number in rng.sample(values, rng.choice((1, 1, 2))):
        name, _, value = lines[number].partition(" = ")
        match rng.randrange(6):
            case 0:
                lines[number] = f"{rng.choice((name + 'x', name.upper(), '', '[' + name + ']'))} = {value}"
            case 1:
                lines[number] = f"{name} = [{value}, {value}]"
            case 2:
                lines.append(lines[number])
            case _:
                lines[number] = f"{name} = {rng.choice(TEXTS)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutated_csv(content: bytes, rng: random.Random) -> bytes:
    """Replace, drop and repeat cells and rows of a table, or change its bytes."""
    if rng.random() < 0.25:
        return mutated_bytes(content, rng)
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2, 3))):
        row = rng.choice(rows)
        match rng.randrange(5):
            case 0:
                rows.append(list(row))
            case 1:
                row.append(rng.choice(TEXTS))
            case 2 if len(row) > 1:
                del row[rng.randrange(len(row))]
            case _:
                row[rng.randrange(len(row))] = rng.choice((*TEXTS, "/dev/zero", ".", "../x", '"', "a;b\tc", "S0"))
    return "\n".join(rng.choice((",", ",", ";", "\t")).join(row) for row in rows).encode("utf-8", "surrogatepass")
