"""The base against the library's own merge, and its bytes against damage."""

from __future__ import annotations

import json
import math
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock import list_sections, merge_stock
from telemetry import base as base_room
from telemetry.base import (
    ALL_PIDS_KEPT,
    Base,
    BaseError,
    absorb,
    absorb_all,
    parse_base,
    render_base,
)
from telemetry.shards import GAUGE_MODES, render_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stock import Contents, Page

NAN: Final = math.nan
KINDS: Final = (
    *(("counter", ""), ("histogram", ""), ("summary", "")),
    *(("gauge", mode) for mode in GAUGE_MODES),
)


def leave_out_live(shards: Iterable[Contents]) -> list[Contents]:
    return [shard for shard in shards if not shard[1].startswith("live")]


def compare(ours: Page, stock: Page, *, scale: float | None = None) -> None:
    """Hold two pages together: exactly, or sums within 1e-9 of what was added up."""
    assert set(ours) == set(stock)
    for family, (kind, help_text, samples) in stock.items():
        assert ours[family][:2] == (kind, help_text)
        expected = pytest.approx(samples, rel=0, abs=1e-9 * (scale or 0), nan_ok=True)
        assert ours[family][2] == expected


# -- Shards ---------------------------------------------------------------------------------------


def build_key(family: str, name: str, labels: dict[str, str], help_text: str = "Help.") -> bytes:
    return json.dumps([family, name, labels, help_text]).encode()


def list_keys(kind: str, mode: str) -> list[bytes]:
    """Give the few keys of a kind's one family: each kind and mode has its own, so none clash."""
    family = f"{kind}_{mode}"
    names: list[tuple[str, dict[str, str]]]
    match kind:
        case "counter":
            names = [(f"{family}_total", {"a": text}) for text in ("x", "y")]
        case "gauge":
            names = [(family, {"a": text}) for text in ("x", "y")]
        case _:
            names = [(f"{family}_{part}", {}) for part in ("sum", "count")]
    if kind == "histogram":
        names += [(f"{family}_bucket", {"le": bound}) for bound in ("0.5", "2.0", "+Inf")]
    return [build_key(family, name, labels) for name, labels in names]


def draw_shards(values: st.SearchStrategy[float], times: st.SearchStrategy[float]) -> Any:
    """Draw shards of few kinds, keys and pids, so that they often meet."""
    pairs = st.tuples(values, times)
    drawn = {
        (kind, mode): st.tuples(
            *(st.just(kind), st.just(mode), st.integers(1, 4)),
            st.dictionaries(st.sampled_from(list_keys(kind, mode)), pairs, max_size=4).map(
                lambda series: [(raw, *pair) for raw, pair in series.items()]
            ),
        )
        for kind, mode in KINDS
    }
    few = st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)
    return few.flatmap(
        lambda kinds: st.lists(st.one_of([drawn[kind] for kind in kinds]), max_size=12)
    )


ANY_FLOATS: Final = st.floats() | st.sampled_from((0.0, -0.0, 1.0, 2.0, NAN, math.inf, -math.inf))
ANY_TIMES: Final = st.sampled_from((0.0, -1.0, 1.0, 2.0, 3.0, NAN, math.inf))
ANY_SHARDS: Final = draw_shards(ANY_FLOATS, ANY_TIMES)
CUTS: Final = st.lists(st.integers(0, 12), max_size=5).map(sorted)


def group(shards: Sequence[Contents], cuts: Sequence[int]) -> list[tuple[int, Sequence[Contents]]]:
    """Group shards into numbered claims, some of them empty."""
    bounds = pairwise([0, *cuts])
    return [(7 + number, shards[low:high]) for number, (low, high) in enumerate(bounds)]


# -- Absorbing ------------------------------------------------------------------------------------


@given(ANY_SHARDS, CUTS, st.booleans())
def test_however_shards_are_claimed_the_page_is_that_of_the_library(
    shards: list[Contents], cuts: list[int], accumulate: bool
) -> None:
    claims = group(shards, cuts)
    base = absorb_all(Base(), claims)
    flat = leave_out_live(shards[sum(len(claimed) for _, claimed in claims) :])
    ours = merge_stock([*list_sections(base), *flat], accumulate=accumulate)
    stock = merge_stock(leave_out_live(shards), accumulate=accumulate)
    compare(ours, stock)


@given(
    draw_shards(st.floats(-1e9, 1e9), st.just(0.0)).flatmap(
        lambda shards: st.tuples(st.just(shards), st.permutations(shards))
    ),
    CUTS,
)
def test_the_order_of_the_dead_moves_no_sum(
    orders: tuple[list[Contents], list[Contents]], cuts: list[int]
) -> None:
    # Which pid died last is all that matters to `all` gauges that share a pid: not asked here.
    shards, shuffled = ([s for s in leave_out_live(order) if s[1] != "all"] for order in orders)
    base = absorb_all(Base(), [*group(shuffled, cuts), (99, shuffled[max(cuts, default=0) :])])
    stock = merge_stock(shards, accumulate=True)
    ours = merge_stock(list_sections(base), accumulate=True)
    scale = 1 + math.fsum(abs(entry[1]) for shard in shards for entry in shard[3])
    compare(ours, stock, scale=scale)


@settings(max_examples=30)
@given(ANY_SHARDS, CUTS)
def test_claims_absorbed_one_by_one_are_claims_absorbed_at_once(
    shards: list[Contents], cuts: list[int]
) -> None:
    one_by_one = Base()
    for claim, claimed in group(shards, cuts):
        one_by_one = absorb(one_by_one, claim, claimed)
    assert render_base(one_by_one) == render_base(absorb_all(Base(), group(shards, cuts)))


@settings(max_examples=30)
@given(ANY_SHARDS, ANY_SHARDS)
def test_absorbing_changes_nothing_of_the_base_it_is_given(
    old: list[Contents], new: list[Contents]
) -> None:
    base = absorb(Base(), 1, old)
    before = render_base(base)
    absorb(base, 2, new)
    assert render_base(base) == before


def test_only_the_sections_that_change_are_copied_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def copy(held: dict[bytes, tuple[float, float]]) -> dict[bytes, tuple[float, float]]:
        copies.append(held)
        return {**held}

    counters, gauges = {b"a": (1.0, 0.0)}, {b"g": (1.0, 0.0)}
    base = Base(1, {("counter", "", 0): counters, ("gauge", "max", 0): gauges})
    claims = [(claim, [("counter", "", claim, [(b"a", 1.0, 0.0)])]) for claim in range(2, 100)]
    monkeypatch.setattr(base_room, "dict", copy, raising=False)
    after = absorb_all(base, claims)
    assert after.sections["counter", "", 0] == {b"a": (99.0, 0.0)}
    assert after.sections["gauge", "max", 0] is gauges
    assert len(copies) == 1
    assert copies[0] is counters


@pytest.mark.parametrize("claims", [[3], [2], [4, 4], [5, 4]])
def test_a_claim_that_is_not_newer_is_refused(claims: list[int]) -> None:
    with pytest.raises(ValueError, match="twice"):
        absorb_all(Base(claim=3), [(claim, []) for claim in claims])


def test_an_empty_claim_counts_as_folded() -> None:
    assert absorb(Base(claim=3), 9, []) == Base(claim=9)


def test_keys_that_differ_in_help_or_order_stay_apart_and_add_up_on_the_page() -> None:
    one = build_key("c", "c_total", {"a": "1", "b": "2"}, "Old.")
    two = build_key("c", "c_total", {"b": "2", "a": "1"}, "Old.")
    three = build_key("c", "c_total", {"a": "1", "b": "2"}, "New.")
    shards: list[Contents] = [("counter", "", 1, [(key, 1.0, 0.0)]) for key in (one, two, three)]
    base = absorb(Base(), 1, [*shards, *shards])
    held = dict.fromkeys((one, two, three), (2.0, 0.0))
    assert base == Base(1, {("counter", "", 0): held})
    page = merge_stock(list_sections(base), accumulate=True)
    compare(page, merge_stock([*shards, *shards], accumulate=True))


def test_buckets_are_not_accumulated() -> None:
    raw = [build_key("h", "h_bucket", {"le": bound}) for bound in ("1.0", "+Inf")]
    shard: Contents = ("histogram", "", 1, [(raw[0], 3.0, 0.0), (raw[1], 1.0, 0.0)])
    base = absorb(Base(), 1, [shard, shard])
    held = {raw[0]: (6.0, 0.0), raw[1]: (2.0, 0.0)}
    assert base.sections == {("histogram", "", 0): held}


@pytest.mark.parametrize(
    ("mode", "entries", "held"),
    [
        ("mostrecent", [(1.0, 5.0), (2.0, 5.0)], (1.0, 5.0)),  # strictly newer wins
        ("mostrecent", [(1.0, 5.0), (2.0, 6.0), (3.0, 4.0)], (2.0, 6.0)),
        ("mostrecent", [(1.0, 0.0)], (1.0, 0.0)),  # the first is kept in any case
        ("mostrecent", [(1.0, 0.0), (2.0, 0.0)], (1.0, 0.0)),
        ("mostrecent", [(1.0, NAN), (2.0, 1.0)], (2.0, 1.0)),  # and is in nobody's way
        ("mostrecent", [(1.0, -2.0), (2.0, -1.0)], (1.0, -2.0)),
        ("mostrecent", [(1.0, 3.0), (2.0, NAN)], (1.0, 3.0)),
        ("min", [(2.0, 8.0), (1.0, 7.0), (3.0, 9.0)], (1.0, 7.0)),
        ("min", [(2.0, 8.0), (NAN, 9.0)], (2.0, 8.0)),
        ("max", [(2.0, 8.0), (3.0, 7.0), (1.0, 9.0)], (3.0, 7.0)),
        ("max", [(2.0, 8.0), (NAN, 9.0)], (2.0, 8.0)),
        ("sum", [(2.0, 8.0), (3.0, 9.0), (-1.0, 7.0)], (4.0, 9.0)),
    ],
)
def test_a_gauge_keeps_the_value_and_the_time_of_the_one_that_wins(
    mode: str, entries: list[tuple[float, float]], held: tuple[float, float]
) -> None:
    base = Base()
    for claim, (value, time) in enumerate(entries, start=1):
        base = absorb(base, claim, [("gauge", mode, claim, [(b"g", value, time)])])
    assert base.sections == {("gauge", mode, 0): {b"g": held}}


def leave_all(*pids: int) -> Base:
    """Build the base after pids that left one `all` gauge each, its value the claim's number."""
    return absorb_all(
        Base(),
        (
            (claim, [("gauge", "all", pid, [(b"g", float(claim), 0.0)])])
            for claim, pid in enumerate(pids, start=1)
        ),
    )


def test_the_newest_pids_keep_their_all_gauges_and_the_others_are_counted() -> None:
    base = leave_all(*range(1, ALL_PIDS_KEPT + 6))
    assert [pid for _, _, pid in base.sections] == list(range(6, ALL_PIDS_KEPT + 6))
    assert base.dropped == 5


def test_a_pid_that_comes_again_is_new_and_goes_on_in_its_gauges() -> None:
    pids = [*range(1, ALL_PIDS_KEPT + 1)]
    other: Contents = ("gauge", "all", 1, [(b"h", 1.0, 0.0), (b"g", 2.0, 0.0)])
    base = absorb(leave_all(*pids), 900, [other])
    assert base.dropped == 0
    assert [pid for _, _, pid in base.sections] == [*pids[1:], 1]
    assert base.sections["gauge", "all", 1] == {b"g": (2.0, 0.0), b"h": (1.0, 0.0)}
    # The next one costs the place of pid 2.
    base = absorb(base, 901, [("gauge", "all", 999, [(b"g", 1.0, 0.0)])])
    assert ("gauge", "all", 2) not in base.sections
    assert ("gauge", "all", 1) in base.sections


def test_a_pid_that_was_dropped_begins_anew() -> None:
    pids = (1, *range(2, ALL_PIDS_KEPT + 2), 1)
    shards: list[Contents] = [
        ("gauge", "all", pid, [(b"%d" % number, 1.0, 0.0)]) for number, pid in enumerate(pids)
    ]
    base = absorb(Base(), 1, shards)
    assert base.dropped == 2
    assert base.sections["gauge", "all", 1] == {b"%d" % (ALL_PIDS_KEPT + 1): (1.0, 0.0)}


def test_a_shard_without_entries_takes_no_place() -> None:
    full = leave_all(*range(1, ALL_PIDS_KEPT + 1))
    after = absorb(full, 900, [("gauge", "all", 777, []), ("counter", "", 777, [])])
    assert after == Base(900, full.sections)


# -- Bytes ----------------------------------------------------------------------------------------


BASE: Final = absorb(
    Base(claim=41, dropped=3),
    42,
    [
        ("counter", "", 1, [(build_key("c", "c_total", {"a": "\u00e4"}), 2.0, 0.0)]),
        ("gauge", "mostrecent", 1, [(b"not JSON at all\n", -1.0, 1700000000.25)]),
        ("gauge", "all", 5, [(b"\xff", 1e308, 0.0), (b"x" * 100, -0.0, 0.0)]),
        ("gauge", "all", 4, [(b"\xff", 1.0, 0.0)]),
    ],
)
RENDERED: Final = render_base(BASE)


@settings(max_examples=30)
@given(ANY_SHARDS, st.integers(1, 10**18), st.integers(0, 10**6))
def test_a_base_is_read_back_as_it_was(shards: list[Contents], claim: int, dropped: int) -> None:
    base = absorb(Base(dropped=dropped), claim, shards)
    rendered = render_base(base)
    back = parse_base(rendered)
    assert render_base(back) == rendered  # NaN is not equal to itself; its bytes are
    assert (back.claim, back.dropped) == (claim, dropped)
    assert list(back.sections) == list(base.sections)


def test_values_are_read_back() -> None:
    assert parse_base(RENDERED) == BASE
    assert parse_base(render_base(Base())) == Base()


def test_the_first_line_is_for_people_too() -> None:
    document = json.loads(RENDERED.partition(b"\n")[0])
    assert (document["schema"], document["claim"], document["dropped"]) == ("ptsup.base/1", 42, 3)
    lengths = [section.pop("length") for section in document["sections"]]
    assert sum(lengths) == len(RENDERED) - RENDERED.index(b"\n") - 1
    assert document["sections"] == [
        {"kind": "counter", "mode": "", "pid": 0},
        {"kind": "gauge", "mode": "mostrecent", "pid": 0},
        {"kind": "gauge", "mode": "all", "pid": 5},
        {"kind": "gauge", "mode": "all", "pid": 4},
    ]


def is_refused(data: bytes) -> bool:
    try:
        parse_base(data)
    except BaseError:
        return True
    return False


@pytest.mark.parametrize("mask", [1 << bit for bit in range(8)] + [0xFF])
def test_a_base_with_one_byte_changed_is_refused(mask: int) -> None:
    taken = []
    for position, byte in enumerate(RENDERED):
        damaged = bytearray(RENDERED)
        damaged[position] = byte ^ mask
        if not is_refused(bytes(damaged)):
            taken.append(position)
    assert not taken


def test_a_base_cut_short_or_gone_on_is_refused() -> None:
    assert not [end for end in range(len(RENDERED)) if not is_refused(RENDERED[:end])]
    assert is_refused(RENDERED + b"\0")
    assert is_refused(RENDERED + RENDERED)


def forge(line: bytes, images: bytes = b"") -> bytes:
    """Give wrong bytes the right checksum."""
    rest = line + images
    return b'{"schema": "ptsup.base/1", "crc32": "%08x", ' % zlib.crc32(rest) + rest


IMAGE: Final = render_shard([(b"a", 1.0, 0.0)])
SECTION: Final = {"kind": "counter", "mode": "", "pid": 0, "length": len(IMAGE)}


def forge_document(images: bytes = IMAGE, **changes: object) -> bytes:
    document = {"claim": 1, "dropped": 0, "sections": [SECTION], **changes}
    return forge(json.dumps(document)[1:].encode() + b"\n", images)


def forge_section(images: bytes = IMAGE, **changes: object) -> bytes:
    return forge_document(images, sections=[{**SECTION, **changes}])


def test_the_forger_can_forge() -> None:
    assert parse_base(forge_document()) == Base(1, {("counter", "", 0): {b"a": (1.0, 0.0)}})


FORGED: Final = {
    "no line": forge(b'"claim": 1, "dropped": 0, "sections": []}'),
    "no JSON": forge(b"}\n"),
    "no UTF-8": forge(b'"\xff": 1}\n'),
    "too deep": forge(b'"claim": ' + b"[" * 100_000 + b"\n"),
    "nothing in it": forge(b'"": 0}\n'),
    "no sections": forge(b'"claim": 1, "dropped": 0}\n'),
    "sections are a number": forge_document(b"", sections=1),
    "sections are numbers": forge_document(b"", sections=[1]),
    "sections are texts": forge_document(b"", sections="ab"),
    "a negative claim": forge_document(claim=-1),
    "a claim of true": forge_document(claim=True),
    "a claim of 1.0": forge_document(claim=1.0),
    "a claim of text": forge_document(claim="1"),
    "a claim of nothing": forge_document(claim=None),
    "a claim of 5000 digits": forge(
        b'"claim": ' + b"9" * 5000 + b', "dropped": 0, "sections": []}\n'
    ),
    "a negative number dropped": forge_document(dropped=-1),
    "an unknown kind": forge_section(kind="info"),
    "a kind of list": forge_section(kind=[]),
    "a counter with a mode": forge_section(mode="max"),
    "a gauge without one": forge_section(kind="gauge"),
    "a live gauge": forge_section(kind="gauge", mode="livemax"),
    "a pid where none is kept": forge_section(pid=1),
    "no pid where one is kept": forge_section(kind="gauge", mode="all"),
    "a pid of true": forge_section(kind="gauge", mode="all", pid=True),
    "a negative length": forge_document(
        sections=[{**SECTION, "length": 40}, {**SECTION, "length": -8}]
    ),
    "a section too long": forge_section(length=len(IMAGE) + 1),
    "bytes left over": forge_document(IMAGE + b"\0"),
    "a section twice": forge_document(IMAGE * 2, sections=[SECTION, SECTION]),
    "a key twice": forge_section(render_shard([(b"a", 1.0, 0.0)] * 2), length=56),
    "an empty image": forge_section(b"", length=0),
    "an image of zeros": forge_section(bytes(8), length=8),
    "an image not used up": forge_section(IMAGE + bytes(8), length=len(IMAGE) + 8),
    "an image of garbage": forge_section(IMAGE[:8] + b"\xff" * 24),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_a_base_that_is_wrong_and_whole_is_refused(data: bytes) -> None:
    with pytest.raises(BaseError):
        parse_base(data)


def test_a_base_too_large_is_neither_written_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_room, "BASE_LIMIT_BYTES", len(RENDERED))
    assert parse_base(render_base(BASE)) == BASE
    monkeypatch.setattr(base_room, "BASE_LIMIT_BYTES", len(RENDERED) - 1)
    with pytest.raises(BaseError, match="larger"):
        render_base(BASE)
    with pytest.raises(BaseError, match="larger"):
        parse_base(RENDERED)
