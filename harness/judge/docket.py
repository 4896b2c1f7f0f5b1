"""Which item wrote what: the plan items of one guest along its time line, and the updates no item made."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from harness.judge.agent import Item, disagreement
from harness.judge.updates import Chronicle, WithheldEvent
from harness.judge.witness import Access

SPAN_SLACK_NS = 20_000_000
"""By so much may a stamp miss its item's span: the mapping to monotonic time is read from two clocks."""
_OVERLAPPING = 8


class Docket:
    """The items by start. A guest does one thing at a time, so their spans do not overlap by much."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle
        self._starts: list[int] = []
        self._items: list[Item] = []
        self._by_name: dict[str, Item] = {}
        self._spans: dict[str, tuple[int, int]] = {}

    def add(self, item: Item) -> None:
        """One more item; one of the same name takes the older one's place."""
        place = bisect_right(self._starts, item.start_ns)
        self._starts.insert(place, item.start_ns)
        self._items.insert(place, item)
        self._by_name[item.item] = item
        self._spans.pop(item.item, None)

    def get(self, name: str) -> Item | None:
        """The item of that name."""
        return self._by_name.get(name)

    def current(self) -> list[Item]:
        """All items, without those that another of the same name replaced."""
        return [item for item in self._items if self.is_current(item)]

    def is_current(self, item: Item) -> bool:
        """Whether no later item of the same name replaced it."""
        return self._by_name.get(item.item) is item

    @property
    def last_start_ns(self) -> int:
        """When the latest item known began: nothing before it can be claimed by an item to come."""
        return self._starts[-1] if self._starts else 0

    @property
    def last_end_ns(self) -> int:
        """When the last of the items known ended."""
        return max((item.end_ns for item in self._items[-_OVERLAPPING:]), default=0)

    def span(self, item: Item) -> tuple[int, int]:
        """When a write counts as the item's: within its own span, or a little more if that explains all."""
        known = self._spans.get(item.item) if self.is_current(item) else None
        if known is not None:
            return known
        strict = (item.start_ns, item.end_ns)
        if item.writes is not None and disagreement(item, self._writes(strict), final=True) is not None:
            wide = self._wide(item)
            if wide is None:
                return strict
            strict = wide
        if self.is_current(item):
            self._spans[item.item] = strict
        return strict

    def _wide(self, item: Item) -> tuple[int, int] | None:
        """The least more that explains all: on a bench what stamps may be wrong by comes first."""
        uncertain_ns = self._chronicle.most_uncertain_ns
        for slack_ns in sorted({uncertain_ns, SPAN_SLACK_NS + uncertain_ns} - {0}):
            wide = (item.start_ns - slack_ns, item.end_ns + slack_ns)
            if disagreement(item, self._writes(wide), final=True) is None:
                return wide
        return None

    def _range(self, span: tuple[int, int]) -> tuple[int, int]:
        stamps = self._chronicle.write_stamps
        return bisect_left(stamps, span[0]), bisect_right(stamps, span[1])

    def _writes(self, span: tuple[int, int]) -> list[Access]:
        begin, end = self._range(span)
        return self._chronicle.writes[begin:end]

    def write_range(self, item: Item) -> tuple[int, int]:
        """First and end place of the item's writes in the list of all writes."""
        return self._range(self.span(item))

    def updates_of(self, item: Item) -> range:
        """The updates with an announcing write of this item."""
        begin_ns, end_ns = self.span(item)
        stamps, update_of_raw = self._chronicle.raw_stamps, self._chronicle.update_of_raw
        begin, end = bisect_left(stamps, begin_ns), bisect_right(stamps, end_ns)
        return range(update_of_raw[begin], update_of_raw[end - 1] + 1) if begin < end else range(0)

    def withheld_of(self, item: Item) -> list[WithheldEvent]:
        """The known defects that occurred in this item."""
        begin, end = self.write_range(item)
        return [event for event in self._chronicle.withheld if begin <= event.write_no < end]

    def items_of(self, first_ns: int, last_ns: int) -> list[Item]:
        """The items whose spans hold a moment from first_ns to last_ns."""
        found = []
        end = bisect_right(self._starts, last_ns + SPAN_SLACK_NS + self._chronicle.most_uncertain_ns)
        for item in self._items[max(0, end - _OVERLAPPING) : end]:
            begin_ns, end_ns = self.span(item)
            if begin_ns <= last_ns and first_ns <= end_ns:
                found.append(item)
        return found

    def items_of_update(self, number: int) -> list[Item]:
        """The items with an announcing write in that update."""
        updates = self._chronicle.updates
        first_ns = min([updates[number].first_ns, *(event.first_ns for event in updates[number].events)])
        return [
            item
            for item in self.items_of(first_ns, updates[number].last_ns)
            if any(number in (place, updates[place].absorbed_by) for place in self.updates_of(item))
        ]

    def active_at(self, t_ns: int, grace_ns: int) -> Item | None:
        """The item that was being done at that moment or at most grace_ns before."""
        place = bisect_right(self._starts, t_ns) - 1
        if place < 0 or t_ns > self._items[place].end_ns + grace_ns:
            return None
        return self._items[place]

    def holder_of(self, t_ns: int) -> Item | int | None:
        """Who answers for an incident on the stream: the item or (by number) the lone update begun last."""
        place = bisect_right(self._starts, t_ns) - 1
        item = self._items[place] if place >= 0 else None
        number = bisect_right(self._chronicle.firsts, t_ns) - 1
        if number < 0:
            return item
        owners = self.items_of_update(number)
        if item is not None and (item in owners or item.start_ns >= self._chronicle.firsts[number]):
            return item
        return owners[-1] if owners else number
