"""The inner loops of the exact search, compiled by Numba for the processor at hand.

Every kernel works on one block of queries and releases the interpreter's lock, so that threads share the work. It
keeps for each query the K best so far, as powers of the distance (no root is taken), in ascending order. Rows of the
bank are visited in ascending order and a row replaces only what is farther, so that the lowest index wins a tie.

All of them are in this file because Numba's cache on disk watches only the file of the function that it compiled.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

Array = npt.NDArray[Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])

# The tile that keeps its sums in registers. AVX-512 has 32 of 64 bytes, others 16 of 32 bytes or 32 of 16.
_WIDE = bool(llvm.get_host_cpu_features().get("avx512bw", False))
_WIDTH = 64 if _WIDE else 32
_QUERIES = 4 if _WIDE else 2
_ROWS = 4
_CHUNK = 256
"""Features between two looks at whether a row is already too far."""
_FAST_CACHE = 32 * 1024
"""Bytes of the bank that are compared with all queries of the block before the next are read; a first-level cache."""


def _compiled(function: _Function) -> _Function:
    # Sums in any order, so that they are vectorised; always the same order for the same lengths, so that equal rows
    # are equally far.
    compiled = numba.njit(function, nogil=True, fastmath={"reassoc", "contract", "nsz"})
    with contextlib.suppress(RuntimeError):  # no folder to keep the compiled code in: compile in each process
        compiled.enable_caching()
    return cast(_Function, compiled)


def _tile(width: int, squares: bool) -> Any:
    """Make the function ``(queries, bank, query, row, sums)`` that compares _QUERIES queries with _ROWS rows of uint8.

    From (query, row) on; beyond the last comes the last again. Writes to ``sums``, int32, the sums of the absolute or
    squared differences over whole vectors of ``width`` features. LLVM turns this form, wide accumulators of extended
    differences, into the processor's own instructions for it (psadbw; vpdpwssd or pmaddwd); loops in Python end as
    their narrowest variants, or not there at all.
    """
    byte, half, word, index = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
    vector, halves, words = (ir.VectorType(kind, width) for kind in (byte, half, word))

    def pointers(builder: Any, array: Any, first: Any, count: int) -> list[Any]:
        total, stride = (builder.extract_value(field, 0) for field in (array.shape, array.strides))
        last = builder.sub(total, index(1))
        places = [builder.add(first, index(offset)) for offset in range(count)]
        places = [builder.select(builder.icmp_signed("<", place, last), place, last) for place in places]
        return [builder.gep(array.data, [builder.mul(place, stride)]) for place in places]

    def contribution(builder: Any, a: Any, b: Any) -> Any:
        if squares:
            difference = builder.sext(builder.sub(builder.zext(a, halves), builder.zext(b, halves)), words)
            return builder.mul(difference, difference)
        kind = ir.FunctionType(words, [words, ir.IntType(1)])
        absolute = cgutils.get_or_insert_function(builder.module, kind, f"llvm.abs.v{width}i32")
        return builder.call(absolute, [builder.sub(builder.zext(a, words), builder.zext(b, words)), ir.IntType(1)(0)])

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        queries, bank, sums = (
            context.make_array(kinds[place])(context, builder, arguments[place]) for place in (0, 1, 4)
        )
        sides = pointers(builder, queries, arguments[2], _QUERIES), pointers(builder, bank, arguments[3], _ROWS)
        totals = [cgutils.alloca_once_value(builder, ir.Constant(words, None)) for _ in range(_QUERIES * _ROWS)]
        whole = builder.and_(builder.extract_value(bank.shape, 1), index(-width))
        with cgutils.for_range_slice(builder, index(0), whole, index(width)) as (place, _):
            loaded = [
                [builder.load(builder.bitcast(builder.gep(row, [place]), vector.as_pointer()), align=1) for row in side]
                for side in sides
            ]
            for total, (a, b) in zip(totals, itertools.product(*loaded), strict=True):
                builder.store(builder.add(builder.load(total), contribution(builder, a, b)), total)
        kind = ir.FunctionType(word, [words])
        reduced = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.add.v{width}i32")
        for place, total in enumerate(totals):
            builder.store(builder.call(reduced, [builder.load(total)]), builder.gep(sums.data, [index(place)]))
        return context.get_dummy_value()

    @intrinsic
    def tile(typing: Any, queries: Any, bank: Any, query: Any, row: Any, sums: Any) -> Any:
        return types.void(queries, bank, types.intp, types.intp, sums), generate

    return tile


_absolute_tile = _tile(_WIDTH, squares=False)
_squared_tile = _tile(_WIDTH // 2, squares=True)  # the differences take 16 bits


@_compiled
def _keep(power: float, row: int, powers: Array, indices: Array) -> None:
    """Put a row that is nearer than the last of the K best in its place among them."""
    place = len(powers) - 1
    while place > 0 and powers[place - 1] > power:
        powers[place] = powers[place - 1]
        indices[place] = indices[place - 1]
        place -= 1
    powers[place] = power
    indices[place] = row


@_compiled
def _power(a: Array, b: Array, p: int, limit: float) -> float:
    """Return the p-th power of the distance, or something above ``limit`` when it is.

    In float64, which holds every sum of integers that occurs here without rounding.
    """
    total = 0.0
    for start in range(0, len(a), _CHUNK):
        # Slices, because the compiler vectorises only indices that it knows not to be negative.
        x, y = a[start : start + _CHUNK], b[start : start + _CHUNK]
        part = 0.0
        if p == 1:
            for place in range(len(x)):
                part += abs(np.float64(x[place]) - np.float64(y[place]))
        elif p == 2:
            for place in range(len(x)):
                difference = np.float64(x[place]) - np.float64(y[place])
                part += difference * difference
        else:
            for place in range(len(x)):
                difference = abs(np.float64(x[place]) - np.float64(y[place]))
                part += difference * difference * difference
        total += part
        if total > limit:
            break
    return total


@_compiled
def _reach(limit: float, p: int, length: int) -> float:
    """Return what the sum of the squares (for p = 1: of the differences) must not exceed for a power below the limit.

    With p = 3 by Hölder's inequality: the sum of cubes is at least (sum of squares)^(3/2) / sqrt(length).
    """
    return (limit * np.sqrt(np.float64(length))) ** (2 / 3) * (1 + 1e-12) if p == 3 else limit


@_compiled
def scan_bytes(bank: Array, queries: Array, p: int, powers: Array, indices: Array, begin: int, end: int) -> None:
    """Search by any norm among uint8, by sums of absolute or squared differences in integers.

    ``bank`` (N, D) and ``queries`` (Q, D) are contiguous, and the sums are below 2**31. ``powers`` float64 and
    ``indices`` int64 (Q, K) are filled with infinity and -1 before, and hold the result after, for the queries
    [begin, end).
    """
    length = bank.shape[1]
    width = _WIDTH if p == 1 else _WIDTH // 2
    rest = length - length % width
    group = max(_ROWS, _FAST_CACHE // length // _ROWS * _ROWS)
    sums = np.empty(_QUERIES * _ROWS, np.int32)
    reach = np.full(end - begin, np.inf)
    for first in range(0, len(bank), group):
        last = min(first + group, len(bank))
        for query in range(begin, end, _QUERIES):
            for row in range(first, last, _ROWS):
                if p == 1:
                    _absolute_tile(queries, bank, query, row, sums)
                else:
                    _squared_tile(queries, bank, query, row, sums)
                for a in range(query, min(query + _QUERIES, end)):
                    for b in range(row, min(row + _ROWS, last)):
                        total = np.int64(sums[(a - query) * _ROWS + b - row])
                        for place in range(rest, length):
                            difference = abs(np.int64(queries[a, place]) - np.int64(bank[b, place]))
                            total += difference if p == 1 else difference * difference
                        if total > reach[a - begin]:
                            continue
                        limit = powers[a, -1]
                        power = _power(queries[a], bank[b], p, limit) if p == 3 else np.float64(total)
                        if power < limit:
                            _keep(power, b, powers[a], indices[a])
                            reach[a - begin] = _reach(powers[a, -1], p, length)


@_compiled
def scan(bank: Array, queries: Array, powers: Array, indices: Array, begin: int, end: int) -> None:
    """Search by p = 1 among any features, each pair on its own; arguments as for `scan_bytes`."""
    group = max(1, _FAST_CACHE // (bank.shape[1] * bank.itemsize))
    for first in range(0, len(bank), group):
        for query in range(begin, end):
            for row in range(first, min(first + group, len(bank))):
                limit = powers[query, -1]
                power = _power(queries[query], bank[row], 1, limit)
                if power < limit:
                    _keep(power, row, powers[query], indices[query])


@_compiled
def refine(
    bank: Array,
    queries: Array,
    products: Array,
    bank_squares: Array,
    query_squares: Array,
    relative: float,
    absolute: float,
    p: int,
    offset: int,
    powers: Array,
    indices: Array,
    begin: int,
    end: int,
) -> None:
    """Search by p = 2 or 3 among the rows that a matrix product of limited precision cannot rule out.

    The sum of squares is bounded from below by ``bank_squares + query_squares - 2 * products`` less its error,
    ``relative`` times the squares and ``absolute``.

    ``bank`` is a part of the whole that starts at the row ``offset``; ``products`` is (Q, rows of the part).
    ``powers`` and ``indices`` are carried from part to part; the queries are [begin, end).
    """
    for query in range(begin, end):
        best, places = powers[query], indices[query]
        limit = best[-1]
        reach = _reach(limit, p, bank.shape[1])
        for row in range(len(bank)):
            squares = (1 - relative) * (bank_squares[row] + query_squares[query])
            if squares - 2 * np.float64(products[query, row]) - absolute > reach:
                continue
            power = _power(queries[query], bank[row], p, limit)
            if power < limit:
                _keep(power, offset + row, best, places)
                limit = best[-1]
                reach = _reach(limit, p, bank.shape[1])
