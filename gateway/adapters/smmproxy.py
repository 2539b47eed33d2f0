"""smmproxy.com: the common dialect, but refills and cancels one at a time.

Quirks, from its documentation:
* ``status`` takes up to 100 orders; ``refill``, ``refill_status`` and ``cancel`` take one.
* A status row with an error has a ``status`` of "104" beside it: an error number, not a status.
* Subscriptions answer ``{"status", "posts"}``, drip-feed orders ``{"status", "runs"}``, and
  nothing else.
* ``refill`` answers with its id, ``"status": 200`` and a sentence; ``cancel`` with a sentence.
* As printed, its service list lacks a comma before ``dripfeed``.
"""

import re

from gateway.adapters.api_v2 import ApiV2, Repair
from gateway.model import Action

_LOST_COMMA: Repair = (re.compile(r'(:\s*(?:true|false))(?=\s*"dripfeed"\s*:)'), r"\1,")


class Smmproxy(ApiV2):
    """The dialect of smmproxy.com."""

    name = "smmproxy"
    batch = {Action.STATUS: 100}
    repairs = {Action.SERVICES: (_LOST_COMMA,)}
