"""smmai.net: the common dialect, with every order shape of its documentation.

Quirks, from its documentation:
* A subscription's ``delay`` is one of a closed list.
"""

from gateway.adapters.api_v2 import ApiV2


class Smmai(ApiV2):
    """The dialect of smmai.net."""

    name = "smmai"
    delays = (
        *(0, 5, 10, 15, 20, 30, 40, 50, 60, 90, 120),
        *(150, 180, 210, 240, 270, 300, 360, 420, 480, 540, 600),
    )
