"""What can go wrong, and what may be done about each.

::

    GatewayError
    ├── CallFailed            a call to a provider did not give what it was for
    │   ├── Rejected          it said no: nothing happened there; another route may be tried
    │   ├── Unreachable       it never heard: not a byte was written; may be tried again
    │   └── Indeterminate     it may have acted: never sent again, settled by evidence
    ├── Unsupported           this dialect has no words for the call: nothing was sent
    ├── CustomerError         what a customer is told, one of ``ErrorText``
    ├── CurrencyMismatch      two currencies met in one sum: a bug, nothing was computed
    ├── LeaseLost             somebody else does this piece of work by now: nothing was written
    ├── TransferConflict      a transfer's key came back with another amount: a bug or a
    │                         reference used twice; nothing was moved
    └── StoreUnavailable      the database cannot make a promise now: answer 503, send nothing

    ConfigError               outside the tree, so that nothing which forgives a provider
                              forgives a bad file
"""

from enum import StrEnum


class ErrorText(StrEnum):
    """Every text that a customer may read in ``{"error": …}``, to the letter."""

    INCORRECT_REQUEST = "Incorrect request"
    INVALID_KEY = "Invalid API key"
    SUSPENDED = "Account suspended"
    INVALID_SERVICE = "Invalid service ID"
    UNAVAILABLE = "Service is unavailable"
    BAD_LINK = "Bad link"
    INVALID_QUANTITY = "Invalid quantity"
    NOT_ENOUGH_FUNDS = "Not enough funds"
    INCORRECT_COMMENTS = "Incorrect comments"
    INCORRECT_RUNS = "Incorrect runs"
    INCORRECT_INTERVAL = "Incorrect interval"
    NO_DRIPFEED = "Dripfeed is not supported by this service"
    ACTIVE_ORDER = "You have active order with this link. Please wait until order being completed."
    IDENTICAL_ORDER = "An identical order was just placed"
    KEY_REUSED = "This idempotency key was used for another order"
    INCORRECT_ORDER = "Incorrect order ID"
    NO_REFILL = "Refill is not available"
    REFILL_NOT_FOUND = "Refill not found"
    NO_CANCEL = "Cancel is not available"
    TOO_MANY_REQUESTS = "Too many requests"


class Fault(StrEnum):
    """Whose matter a provider's refusal is; what follows from each is declared in ``sending``."""

    CUSTOMER = "customer"  # the link, the quantity, the comments: the customer's own input
    ACCOUNT = "account"  # our key, our purse, our limit there
    SERVICE = "service"  # this service is gone, disabled, or has other limits now
    BUSY = "busy"  # not now: rate limit, maintenance, an active order with this link
    ORDER = "order"  # an order or refill that exists: unknown to it, or not eligible
    UNKNOWN = "unknown"  # a text that nobody has classified


class GatewayError(Exception):
    """The root of everything that the gateway itself raises at run time."""


class CallFailed(GatewayError):
    """A call to a provider did not give what it was for; only its three children are raised."""


def opening(fault: Fault) -> str:
    """Return how the text of a ``Rejected`` begins: by that it is known where only text is kept."""
    return f"{fault}: "


class Rejected(CallFailed):
    """The provider refused in so many words.

    Attributes:
        fault: whose matter it is.
        text: what a customer may be told.
        words: the provider's own words, for the owner only.

    """

    def __init__(self, fault: Fault, text: ErrorText, words: str) -> None:
        super().__init__(f"{opening(fault)}{words}")
        self.fault = fault
        self.text = text
        self.words = words


class Unreachable(CallFailed):
    """Not a byte reached the provider: nothing can have happened there."""


class Indeterminate(CallFailed):
    """The provider may have acted: a timeout, a broken connection, a 5xx, an unreadable answer."""


class Unsupported(GatewayError):
    """The provider's dialect has no way to say this call; raised before anything is sent."""


class CustomerError(GatewayError):
    """A customer's request ends here, with this text and nothing changed."""

    def __init__(self, text: ErrorText) -> None:
        super().__init__(text)
        self.text = text


class CurrencyMismatch(GatewayError):
    """Amounts of two currencies met in one sum."""


class TransferConflict(GatewayError):
    """The same key was used for a transfer of another amount."""


class LeaseLost(GatewayError):
    """A lease has passed to another holder, who has seen more recent things."""


class StoreUnavailable(GatewayError):
    """The database is locked, full, gone or newer than this program."""


class ConfigError(Exception):
    """The owner's file or environment is wrong; carries every mistake found, one a line."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
