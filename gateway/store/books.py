"""The books of both databases: posting transfers in memory, to accounts that are locked.

What a transfer does depends on what is there: a charge that the balance does not cover becomes a
debt, and a credit pays a debt first. So the accounts of everybody concerned are locked and read,
and a whole list is worked out on them in turn; what comes out is written at once.
"""

from collections.abc import Mapping

import msgspec

from gateway.errors import TransferConflict
from gateway.model import MOVES, Code, Kind, Transfer

Owner = tuple[str, str]
"""A customer's id as text or a provider's name, and the currency of his accounts."""

FLOORLESS = frozenset({Kind.FUNDS, Kind.OWED, Kind.PAID, Kind.PURSE})
"""Accounts that may be below zero, as the databases' own checks have it."""
_BY_BALANCE = {Code.CHARGE, *(code for code, (_, to) in MOVES.items() if to is Kind.AVAILABLE)}
"""What these do depends on how much is there."""
_BEYOND = 2**63


class NoFunds(Exception):  # an outcome on its way to a return value
    """A floor is in the way; the caller takes back what came before."""


class Books:
    """The accounts of those concerned, and what moves.

    Attributes:
        transfers: what was posted, in turn.
        unseen: whose accounts would have to be known. Their transfers count as posted
            until then, and nothing that was worked out stands.

    """

    def __init__(
        self, accounts: Mapping[Owner, Mapping[Kind, int]], posted: Mapping[str, int]
    ) -> None:
        self._balances = {owner: dict(kinds) for owner, kinds in accounts.items()}
        self._posted = dict(posted)
        self.transfers: list[Transfer] = []
        self.unseen: set[Owner] = set()

    def post(self, transfer: Transfer) -> bool:
        """Post a transfer once; ``False`` when its key was posted before.

        Raises ``NoFunds`` at a floor and ``TransferConflict`` for another amount under its key.
        """
        posted = self._posted.get(transfer.key)
        if posted is not None:
            if posted != transfer.amount:
                raise TransferConflict(f"{transfer.key} was posted before with another amount")
            return False
        owner = (transfer.owner, transfer.currency)
        if owner not in self._balances:
            self.unseen.add(owner)
        elif transfer.code is Code.CHARGE:
            self._charge(self._balances[owner], transfer)
        else:
            self._move(self._balances[owner], transfer)
            if MOVES[transfer.code][1] is Kind.AVAILABLE:
                self._collect(self._balances[owner], transfer)
        return True

    def take_back(self, until: int) -> None:
        """Take back all transfers but the first so many."""
        while len(self.transfers) > until:
            transfer = self.transfers.pop()
            source, target = MOVES[transfer.code]
            balances = self._balances[transfer.owner, transfer.currency]
            balances[source] += transfer.amount
            balances[target] -= transfer.amount
            del self._posted[transfer.key]

    def moved(self) -> dict[tuple[Kind, str, str], int]:
        """Return by how much each account that was touched has changed: kind, owner, currency."""
        sums: dict[tuple[Kind, str, str], int] = {}
        for one in self.transfers:
            source, target = MOVES[one.code]
            owner, currency, amount = one.owner, one.currency, one.amount
            less, more = (source, owner, currency), (target, owner, currency)
            sums[less] = sums.get(less, 0) - amount
            sums[more] = sums.get(more, 0) + amount
        return sums

    def _move(self, balances: dict[Kind, int], transfer: Transfer) -> None:
        source, target = MOVES[transfer.code]
        less = balances.get(source, 0) - transfer.amount
        more = balances.get(target, 0) + transfer.amount
        if (less < 0 and source not in FLOORLESS) or less < -_BEYOND or more >= _BEYOND:
            raise NoFunds
        balances[source], balances[target] = less, more
        self.transfers.append(transfer)
        self._posted[transfer.key] = transfer.amount

    def _charge(self, balances: dict[Kind, int], transfer: Transfer) -> None:
        """Charge what the balance covers; the rest is owed, for it was delivered."""
        covered = min(balances.get(Kind.AVAILABLE, 0), transfer.amount)
        under = transfer.key.rpartition("/")[0]
        for code, amount in ((Code.CHARGE, covered), (Code.OWE, transfer.amount - covered)):
            if amount:
                self._move(balances, _part(transfer, f"{under}/{code}", code, amount))

    def _collect(self, balances: dict[Kind, int], credit: Transfer) -> None:
        """Let a credit pay what is owed first."""
        owed = -balances.get(Kind.OWED, 0)
        if owed > 0:
            amount = min(owed, balances[Kind.AVAILABLE])
            # All that is an order's begins alike. Any other credit ends in whatever its owner
            # calls it, so that only the beginning tells his words from ours.
            of_order = credit.order is not None
            key = f"{credit.key}/{Code.COLLECT}" if of_order else f"{Code.COLLECT}/{credit.key}"
            self._move(balances, _part(credit, key, Code.COLLECT, amount))


class OptimisticBooks(Books):
    """Books of accounts that nobody has looked at: all that moves is taken to be covered.

    Whoever writes it finds out. What depends on how much there is exactly, a charge that may have
    to be owed and a credit that may pay a debt, needs a look at its owner.
    """

    def __init__(self) -> None:
        super().__init__({}, {})

    def post(self, transfer: Transfer) -> bool:
        """Post a transfer."""
        if transfer.code in _BY_BALANCE:
            self.unseen.add((transfer.owner, transfer.currency))
        self.transfers.append(transfer)
        return True


def _part(whole: Transfer, key: str, code: Code, amount: int) -> Transfer:
    return msgspec.structs.replace(whole, key=key, code=code, amount=amount)
