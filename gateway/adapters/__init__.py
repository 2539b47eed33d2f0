"""Adapters: one module a dialect, and the table of them. How to add one: ``README.md``."""

from collections.abc import Mapping

from gateway.adapters.api_v2 import ApiV2
from gateway.adapters.instasmm import Instasmm
from gateway.adapters.smm1st import Smm1st
from gateway.adapters.smm_panel_in import SmmPanelIn
from gateway.adapters.smmai import Smmai
from gateway.adapters.smmproxy import Smmproxy

__all__ = ["ADAPTERS", "ApiV2"]

ADAPTERS: Mapping[str, type[ApiV2]] = {
    adapter.name: adapter for adapter in (SmmPanelIn, Instasmm, Smmproxy, Smmai, Smm1st, ApiV2)
}
"""Every dialect by the name that ``providers.yaml`` calls it."""
