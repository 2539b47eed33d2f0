"""What spares a server 5 MB that nothing in it uses; it is imported before all others.

httpx looks for what its own command line needs, and structlog for what makes tracebacks pretty.
They would find it, for our commands print with it. So they are told that it is not there, as it
often is not.
"""

import sys
from importlib import import_module
from typing import Any

_ABSENT: Any = None
for _name in ("rich", "httpx._main", "structlog._greenlets"):
    sys.modules.setdefault(_name, _ABSENT)
import_module("structlog")
if sys.modules["rich"] is _ABSENT:
    del sys.modules["rich"]
