"""Five panels to practise on, as their documentation describes them.

``create`` returns the ASGI application: ``/<panel>/api/v2`` speaks the panel's dialect to callers
with the key ``sandbox-<panel>``, and ``/<panel>/sandbox/…`` lets tests and curious people look
behind the counter; see ``README.md``. Nothing here imports the rest of the gateway, so that the
two can contradict each other.
"""

from gateway.sandbox.app import Sandbox, create, key, serve
from gateway.sandbox.catalog import CATALOGS, CURRENCIES

PANELS = tuple(CATALOGS)

__all__ = ["CATALOGS", "CURRENCIES", "PANELS", "Sandbox", "create", "key", "serve"]
