"""What becomes of an order as time passes.

The course is chosen by a word in the order's link (or username), as test card numbers choose what
becomes of a payment; see ``README.md``. Ages are seconds since the order was taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

MINUTE = 60.0
BEGINS, LASTS = 2 * MINUTE, 8 * MINUTE


@dataclass(frozen=True)
class State:
    """How far an order is, in neutral words that each dialect spells in its own way.

    ``done`` units of the order's size are delivered, more than the size when it overdelivers; of
    a subscription it counts the posts.
    """

    word: str
    done: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected."""
        return self.word in ("completed", "partial", "canceled", "expired")


Course = Callable[[int, float], State]
"""From an order's size and age to its state."""


def usual(size: int, age: float) -> State:
    """Return how far an order is that simply gets done."""
    if age < MINUTE:
        return State("pending")
    if age < BEGINS:
        return State("processing")
    if age < BEGINS + LASTS:
        return State("in progress", int(size * (age - BEGINS) / LASTS))
    return State("completed", size)


def _partial(size: int, age: float) -> State:
    most = size - size * 3 // 10
    reached = usual(size, age)
    return reached if reached.done < most else State("partial", most)


def _canceled(size: int, age: float) -> State:
    return usual(size, age) if age < 3 * MINUTE else State("canceled")


def _late(size: int, age: float) -> State:
    if age < 12 * MINUTE:
        return usual(size, age)
    return State("partial", size // 2) if age < 15 * MINUTE else State("canceled")


def _slow(size: int, age: float) -> State:
    return usual(size, max(age - 1000 * MINUTE, 0))


def _over(size: int, age: float) -> State:
    reached = usual(size, age)
    return State("completed", size + size // 20) if reached.word == "completed" else reached


def _odd(size: int, age: float) -> State:
    reached = usual(size, age)
    return replace(reached, word="odd") if reached.word == "in progress" else reached


COURSES: Mapping[str, Course] = {
    "late-cancel": _late,  # before "cancel", which is in it
    "slow-start": _slow,
    "overdeliver": _over,
    "odd-status": _odd,
    "partial": _partial,
    "cancel": _canceled,
}
ENDS: Mapping[str, str] = {"cancel": "canceled", "expire": "expired", "pause": "paused"}
"""What becomes of a subscription after its first post."""


def course(target: str) -> Course:
    """Return what becomes of an order for this link."""
    return next((one for word, one in COURSES.items() if word in target), usual)


def subscription(target: str, posts: int, age: float) -> State:
    """Return how far a subscription for so many ``posts`` is."""
    seen = min(max(int((age - MINUTE) / (1.5 * MINUTE)), 0), posts)
    end = next((end for word, end in ENDS.items() if word in target), None)
    if end and seen:
        return State(end, 1)
    return State("completed" if seen == posts else "active", seen)
