"""instasmm.in: calls the target ``url``, and takes one order at a time.

Quirks, from its documentation:
* ``add`` takes ``url`` where others take ``link``, and always a ``quantity``. Its "encoded"
  comments are encoded once, as every field of a form is.
* ``status`` takes up to 100 orders, ``refill`` and ``cancel`` take one.
* ``refill`` and ``cancel`` answer with a sentence, not an id; there is no ``refill_status``.
* The service list has no ``refill`` and no ``cancel``, and the balance is a number.
* As printed, three answers are not JSON: ``"status": Success`` and a comma before a brace.
"""

import re

from gateway.adapters.api_v2 import ApiV2, Repair
from gateway.errors import ErrorText, Fault
from gateway.model import Action

_BARE_STATUS: Repair = (re.compile(r'("status"\s*:\s*)([A-Za-z]+)(?=\s*[,}])'), r'\1"\2"')
_LAST_COMMA: Repair = (re.compile(r",(?=\s*}\s*\Z)"), "")


class Instasmm(ApiV2):
    """The dialect of instasmm.in."""

    name = "instasmm"
    actions = ApiV2.actions - {Action.REFILL_STATUS}
    batch = {Action.STATUS: 100}
    renames = {"link": "url"}
    repairs = {
        Action.REFILL: (_BARE_STATUS,),
        Action.CANCEL: (_BARE_STATUS,),
        Action.BALANCE: (_LAST_COMMA,),
    }
    quantity_always = True
    refusals = ((Fault.SERVICE, ErrorText.UNAVAILABLE, "incorrect service type"),)
