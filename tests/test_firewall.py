"""What of a provider's list is believed, by values alone."""

from collections.abc import Mapping
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import build
from build import AT
from gateway import firewall
from gateway.firewall import Judged, Rules
from gateway.model import Decision, Held, Known, Offer

DAY = 86_400_000
OLD = build.offer(name="Instagram Followers")


def row(offer: Offer = OLD, **changes: object) -> Offer:
    """Return a row with something else about it; a rate may be text."""
    if isinstance(rate := changes.get("rate"), str):
        changes["rate"] = Decimal(rate)
    return msgspec.structs.replace(offer, **changes)


def known(*offers: Offer, gone_at: int | None = None) -> Known:
    return {offer.id: (offer, gone_at) for offer in offers}


def judge(
    new: Offer,
    old: Offer = OLD,
    *,
    rules: Rules = Rules(),  # noqa: B008  # a frozen value
    before: Mapping[str, Held] = {},
    gone_at: int | None = None,
) -> Judged:
    return firewall.judge("p", known(old, gone_at=gone_at), [new], before, rules, AT)


# --- a list as a whole --------------------------------------------------------------------------


def offers(count: int, rate: str = "1") -> list[Offer]:
    return [build.offer(str(number), rate=rate) for number in range(count)]


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (offers(10), ""),
        (offers(5), ""),
        (offers(4), "lists 4 services instead of 10"),
        ([], "lists 0 services instead of 10"),
        ([*offers(5), *offers(5, "0")], ""),
        ([*offers(5), *offers(6, "0")], "lists 6 of 11 services as free"),
    ],
    ids=["whole", "half", "short", "empty", "half of it free", "mostly free"],
)
def test_a_list_that_cannot_be_true_is_not_believed(new: list[Offer], reason: str) -> None:
    told = firewall.disbelief(10, new)

    assert reason == told


def test_a_first_list_may_have_any_length_but_none() -> None:
    assert firewall.disbelief(0, offers(1)) == ""
    assert firewall.disbelief(0, []) == "lists 0 services instead of 0"


# --- a row --------------------------------------------------------------------------------------

ORDINARY = {
    "the same": row(),
    "three times the rate": row(rate="2.70"),
    "a third of the rate": row(rate="0.30"),
    "other limits": row(min=1, max=10**9),
    "one quantity only": row(min=500, max=500),
    "other flags": row(refill=True, cancel=False, dripfeed=True),
    "another description": row(description="Now better"),
    "the same name in capitals": row(name="INSTAGRAM FOLLOWERS"),
    "the same name with ornaments": row(name="★ Instagram ▸ Followers ★"),
    "the same type in another spelling": row(type="default"),
}
ODD = {
    "more than three times the rate": (row(rate="2.71"), "its rate was 0.90 and is 2.71"),
    "less than a third of the rate": (row(rate="0.29"), "its rate was 0.90 and is 0.29"),
    "nothing to pay": (row(rate="0"), "its rate was 0.90 and is 0"),
    "min over max": (row(min=11, max=10), "its min, 11, is over its max, 10"),
    "another name": (
        row(name="TikTok Likes"),
        "its name was 'Instagram Followers' and is 'TikTok Likes'",
    ),
    "another category": (row(category="TikTok"), "its category was 'First' and is 'TikTok'"),
    "another type": (row(type="Package"), "its type was 'Default' and is 'Package'"),
    "two things at once": (
        row(type="Package", rate="9"),
        "its type was 'Default' and is 'Package'; its rate was 0.90 and is 9",
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_change_is_taken_over(name: str) -> None:
    judged = judge(ORDINARY[name])

    assert Judged([ORDINARY[name]], []) == judged


@pytest.mark.parametrize("name", ODD)
def test_an_odd_change_is_held_back_and_the_old_row_stays(name: str) -> None:
    new, reason = ODD[name]
    judged = judge(new)

    assert [OLD] == judged.offers
    assert [(new, reason, AT)] == [(one.offered, one.reason, one.at) for one in judged.held]


def test_a_service_that_nobody_knew_is_taken_over_whatever_it_costs() -> None:
    new = row(id="2", rate="900")

    assert judge(new) == Judged([new], [])


def test_a_new_service_that_cannot_be_ordered_is_held_back_with_nothing_to_keep() -> None:
    judged = judge(row(id="2", min=2, max=1))

    assert [] == judged.offers
    assert ["2"] == [one.offer for one in judged.held]


def test_what_was_free_may_have_any_rate() -> None:
    new = row(rate="900")

    assert judge(new, row(rate="0")) == Judged([new], [])


def test_an_id_that_comes_back_as_something_else_stays_gone() -> None:
    """Its old row must not return to life for it."""
    judged = judge(row(name="TikTok Likes"), gone_at=AT)

    assert [] == judged.offers
    assert ["1"] == [one.offer for one in judged.held]


def test_an_id_that_comes_back_as_it_was_is_back() -> None:
    assert judge(OLD, gone_at=AT) == Judged([OLD], [])


def test_the_owner_may_allow_larger_jumps() -> None:
    new = row(rate="8.9")

    assert judge(new, rules=Rules(Decimal(10))) == Judged([new], [])


def test_a_change_that_is_held_back_does_not_touch_its_neighbours() -> None:
    other = row(id="2", rate="1.00")
    judged = firewall.judge("p", known(OLD), [row(rate="90"), other], {}, Rules(), AT)

    assert [OLD, other] == judged.offers


# --- kept or paused -----------------------------------------------------------------------------

PAUSED = {
    "dearer": (row(rate="9"), True),
    "cheaper": (row(rate="0.1"), False),
    "min over max": (row(min=11, max=10), False),
    "min over max, and a little dearer": (row(min=11, max=10, rate="0.91"), True),
    "another thing": (row(name="Instagram Likes"), True),
    "the same of another platform": (row(category="TikTok"), True),
    "another type": (row(type="Package"), True),
    "words added": (row(name="Instagram Followers [Refill 30D]"), False),
    "words taken away": (row(name="Followers"), False),
    "words added, and dearer": (row(name="Real Instagram Followers", rate="0.91"), True),
}


@pytest.mark.parametrize("name", PAUSED)
def test_a_service_is_paused_where_going_on_may_lose_money_or_deliver_something_else(
    name: str,
) -> None:
    new, expected = PAUSED[name]
    (held,) = judge(new).held

    assert expected == held.paused


@pytest.mark.parametrize("name", PAUSED)
def test_the_owner_may_have_it_always_one_way(name: str) -> None:
    new, _ = PAUSED[name]
    (kept,) = judge(new, rules=Rules(quarantine="keep")).held
    (paused,) = judge(new, rules=Rules(quarantine="pause")).held

    assert (kept.paused, paused.paused) == (False, True)


# --- what the owner has said --------------------------------------------------------------------


def test_a_rejected_change_stays_rejected_until_it_changes() -> None:
    (held,) = judge(row(rate="9")).held
    rejected = msgspec.structs.replace(held, at=AT - DAY, decision=Decision.REJECTED)
    before = {"1": rejected}
    (again,) = judge(row(rate="9"), before=before).held
    (described,) = judge(row(rate="9", description="Now dearer"), before=before).held
    (another,) = judge(row(rate="10"), before=before).held

    assert rejected == again
    assert (AT - DAY, Decision.REJECTED) == (described.at, described.decision)
    assert (AT, Decision.NONE) == (another.at, another.decision)


def test_a_change_that_the_provider_takes_back_is_held_no_longer() -> None:
    (held,) = judge(row(rate="9")).held

    assert judge(OLD, before={"1": held}) == Judged([OLD], [])


@given(
    old=st.decimals("0.001", 1000, places=3),
    new=st.decimals("0", 5000, places=3),
    jump=st.decimals("1.1", 10, places=1),
)
def test_no_rate_moves_by_more_than_the_owner_allows(
    old: Decimal, new: Decimal, jump: Decimal
) -> None:
    """And by as much as he allows it does."""
    judged = judge(row(rate=new), row(rate=old), rules=Rules(jump))
    within = old / jump <= new <= old * jump

    assert [new if within else old] == [offer.rate for offer in judged.offers]
    assert within is not bool(judged.held)
