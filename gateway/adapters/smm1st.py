"""smm1st.com: the common dialect, to the letter.

Its documentation leaves the parameters of ``add`` blank; those of the common dialect are taken.
"""

from gateway.adapters.api_v2 import ApiV2


class Smm1st(ApiV2):
    """The dialect of smm1st.com."""

    name = "smm1st"
