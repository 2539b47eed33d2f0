"""The composition root: opens everything, wires it, and returns the application."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.auth import Auth
from gateway.background import Background
from gateway.cache import CATALOG, CUSTOMERS, Cache, open_cache
from gateway.catalog import Shop
from gateway.config import Config
from gateway.endpoint import App, Endpoint, Receive, Scope, Send
from gateway.errors import ConfigError, StoreUnavailable
from gateway.follow import Follow
from gateway.limits import Limits
from gateway.orders import Orders
from gateway.router import Router
from gateway.settings import Settings
from gateway.settle import Settler
from gateway.store import Store
from gateway.store.sqlite import SqliteStore
from gateway.transitions import Following
from gateway.upstream import Upstream

log = structlog.get_logger()

DRAIN = 20.0
"""Seconds that orders under way get when the gateway stops."""


class Gateway:
    """Everything that is open, wired together; made by ``open_gateway``."""

    def __init__(
        self,
        config: Config,
        store: Store,
        cache: Cache,
        upstream: Upstream,
        auth: Auth,
        now: Callable[[], int],
    ) -> None:
        promises = config.orders
        following = Following(
            every=int(config.every.status * 1000), follow_for=int(promises.follow_for * 1000)
        )
        self.config = config
        self.store = store
        self.cache = cache
        self.auth = auth
        self.router = Router(config.providers, upstream, now)
        self.shop = Shop(config, store, self.router, cache, now)
        self.orders = Orders(store, self.router, self.shop, promises, following, now)
        self.follow = Follow(
            store, self.router, self.shop, cache, following, promises.answer_within, now
        )
        self.settler = Settler(store, self.router, self.follow, config.providers, following, now)
        self.background = Background(
            config,
            store,
            self.router,
            self.shop,
            self.orders,
            self.follow,
            self.settler,
            now,
        )

    def start(self, *, work: bool = True) -> None:
        """Take part: keep up to date, and with ``work`` do a share of the background work."""
        self.cache.listen(self._hear)
        self.background.start(work=work)

    def _hear(self, news: str) -> None:
        if news != CATALOG:
            self.auth.forget()
        if news != CUSTOMERS:
            self.background.hear()


def _open_cache(settings: Settings, pepper: bytes) -> Cache:
    """Open the cache, for this installation alone: others have orders of the same numbers."""
    return open_cache(settings.redis_url, hashlib.sha256(pepper).hexdigest()[:12])


async def announce(store: Store, settings: Settings, news: str) -> None:
    """Let the processes that serve know at once of what a command has changed.

    Without Redis they look for themselves every few seconds.
    """
    if settings.redis_url:
        cache = _open_cache(settings, await store.pepper())
        await cache.tell(news)
        await cache.aclose()


async def open_store(url: str, *, first_id: int = 1) -> Store:
    """Open the database at ``GATEWAY_DATABASE_URL``, and bring its schema up to date."""
    scheme, _, path = url.partition("://")
    if scheme != "sqlite":
        raise ConfigError(
            f"GATEWAY_DATABASE_URL: {scheme}:// is not served by this version; use sqlite:///FILE"
        )
    return await SqliteStore.open(Path(path.removeprefix("/")), first_id=first_id)


@asynccontextmanager
async def open_gateway(
    config: Config,
    settings: Settings,
    *,
    upstream: Upstream | None = None,
    now: Callable[[], int] = lambda: int(time.time() * 1000),
) -> AsyncIterator[Gateway]:
    """Open everything for as long as the context lasts; nothing runs on its own yet."""
    store = await open_store(settings.database_url, first_id=config.orders.first_id)
    pepper = await store.pepper()
    cache = _open_cache(settings, pepper)
    upstream = upstream or Upstream()
    try:
        gateway = Gateway(config, store, cache, upstream, Auth(store, pepper), now)
        await gateway.shop.refresh()
        yield gateway
    finally:
        await upstream.aclose()
        await cache.aclose()
        await store.close()


async def wind_down(gateway: Gateway) -> None:
    """Hand over the background work, and let what is under way come to its answer."""
    await gateway.background.stop()
    await gateway.follow.drain(DRAIN)
    if left := await gateway.orders.drain(DRAIN):
        log.warning("stopped with orders under way", orders=left)


class Application:
    """The ASGI application, with its life: opened at start-up, drained at shutdown."""

    def __init__(self, config: Config, settings: Settings, *, background: bool = True) -> None:
        self._config = config
        self._settings = settings
        self._background = background
        self._gateway: Gateway | None = None
        self._trouble = "starting"
        site = Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
            ],
            lifespan=self._lifespan,
        )
        self._site: App = site
        self._endpoint: App = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, by the endpoint first."""
        await self._endpoint(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with open_gateway(self._config, self._settings) as gateway:
            self._gateway = gateway
            self._endpoint = Endpoint(
                gateway.auth,
                gateway.shop,
                gateway.orders,
                gateway.follow,
                gateway.store,
                self._site,
                limits=Limits(self._config.limits),
            )
            gateway.start(work=self._background)
            self._trouble = ""
            yield
            self._trouble = "stopping"
            await wind_down(gateway)

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"ok": True})

    async def _readyz(self, _: Request) -> Response:
        problems = [self._trouble] if self._trouble else []
        if self._gateway:
            try:
                await self._gateway.store.edition()
            except StoreUnavailable as trouble:
                problems.append(f"database: {trouble}")
            declared = len(self._config.services)
            if missing := declared - len(self._gateway.shop.catalog.services):
                problems.append(f"{missing} of {declared} services are unavailable")
        ready = not self._trouble and not any(one.startswith("database") for one in problems)
        return JSONResponse({"ready": ready, "problems": problems}, 200 if ready else 503)
