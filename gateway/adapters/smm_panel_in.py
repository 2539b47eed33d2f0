"""smm-panel.in: the common dialect in rupees.

Quirks, from its documentation:
* Amounts are in INR.
* Its statuses are spelled "Cancelled" and, once the money is back, "Refunded": both are Canceled.
* ``cancel`` answers ``{"status": true}`` or ``{"status": false, "error": …}`` for each order.
* ``refill_status`` for several answers with a list of one-key maps, ``{"9871": {"status": …}}``.
"""

from gateway.adapters.api_v2 import ApiV2


class SmmPanelIn(ApiV2):
    """The dialect of smm-panel.in."""

    name = "smm_panel_in"
    currency = "INR"
