"""The composition root: opens everything, wires it, and returns the application."""

import asyncio
import gc
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import config as config_
from gateway import logs
from gateway import settings as settings_
from gateway.adapters import ADAPTERS
from gateway.aftersales import AfterSales
from gateway.auth import Auth
from gateway.background import Background
from gateway.cache import CATALOG, CUSTOMERS, Cache, open_cache
from gateway.catalog import Shop
from gateway.config import Config
from gateway.ending import end
from gateway.endpoint import PATHS, Endpoint
from gateway.errors import ConfigError, StoreUnavailable
from gateway.exchange import ExchangeSource
from gateway.flight import Aloft
from gateway.follow import Follow
from gateway.limits import EXCHANGED, Limits
from gateway.line import Line
from gateway.listing import Listing
from gateway.message import Answer, App, Head, Receive, Scope, Send
from gateway.offload import gently, soon
from gateway.orders import Orders
from gateway.router import Router
from gateway.settings import Settings
from gateway.settle import Settler
from gateway.statuses import Statuses
from gateway.store import Store
from gateway.store.sqlite import SqliteStore
from gateway.sync import Sync
from gateway.transitions import Following
from gateway.upstream import Upstream
from gateway.watchdog import watching

log = structlog.get_logger()

DRAIN = 20.0
"""Seconds that orders under way get when the gateway stops."""
WATCHED = 2.0
"""Seconds between two looks at the owner's file."""

Stamps = tuple[tuple[int, int, int] | None, ...]
"""What changes when a file is written, of each file that is watched."""


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
        before: "Gateway | None" = None,
    ) -> None:
        promises = config.orders
        following = Following(
            every=int(config.every.status * 1000), follow_for=int(promises.follow_for * 1000)
        )
        self.config = config
        self.store = store
        self.cache = cache
        self.upstream = upstream
        self.auth = auth
        self.now = now
        lines: Mapping[str, Line] = before.router.lines if before else {}
        self.router: Router = Router(config.providers, upstream, now, lines)
        self.limits = Limits(config.limits)
        self.shop: Shop = Shop(config, store, self.router, now, before.shop if before else None)
        self.listing = Listing(config, self.shop, cache, now)
        self.sync = Sync(
            config,
            store,
            self.router,
            self.shop,
            self.listing,
            ExchangeSource(config, store, upstream, now),
            cache,
            now,
        )
        if before:  # whatever a file says, this is as it was
            self.sync.seen |= before.sync.seen
            self.listing.dates |= before.listing.dates
        self.aloft: Aloft = before.aloft if before else Aloft()
        self.orders = Orders(store, self.router, self.shop, promises, following, now, self.aloft)
        # Who reads for the file before is told, too, of what changes meanwhile.
        self.statuses: Statuses = before.statuses if before else Statuses(store, cache)
        self.follow = Follow(store, self.router, self.statuses, following, now)
        self.aftersales = AfterSales(
            store,
            self.router,
            self.shop,
            self.statuses,
            self.follow,
            following,
            promises.answer_within,
            now,
        )
        self.settler = Settler(store, self.router, self.follow, config.providers, following, now)
        self.background = Background(
            config,
            store,
            self.router,
            self.sync,
            self.orders,
            self.follow,
            self.aftersales,
            self.settler,
            now,
        )

    async def changed(self, config: Config) -> "Gateway":
        """Return a gateway by another file, over the same store, cache and wire."""
        parts = (self.store, self.cache, self.upstream, self.auth, self.now)
        return await _refreshed(Gateway(config, *parts, before=self))


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
    if scheme == "postgresql":
        # By need: its driver takes 6 MB, which an installation on SQLite is spared.
        from gateway.store.postgres import PostgresStore  # noqa: PLC0415

        return await PostgresStore.open(url, first_id=first_id)
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
    async with AsyncExitStack() as opened:
        store = await open_store(settings.database_url, first_id=config.orders.first_id)
        opened.push_async_callback(store.close)
        pepper = await store.pepper()
        cache = _open_cache(settings, pepper)
        opened.push_async_callback(cache.aclose)
        upstream = upstream or Upstream()
        opened.push_async_callback(upstream.aclose)
        opening = _refreshed(Gateway(config, store, cache, upstream, Auth(store, pepper), now))
        del config  # what has a name here would outlive a change of the file
        yield await opening


async def _refreshed(gateway: Gateway) -> Gateway:
    await gateway.shop.refresh()
    return gateway


def read_config(settings: Settings, text: str | None = None) -> Config:
    """Read the owner's file, or this text in its place; its keys are never logged from then on."""
    environment = settings_.environment(settings)
    currencies = {name: adapter.currency for name, adapter in ADAPTERS.items()}
    if text is None:
        found = config_.load(settings.config, environment, currencies)
    else:
        found = config_.parse(text, str(settings.config), environment, currencies)
    for provider in found.providers.values():
        logs.register_secret(provider.key.get_secret_value())
    return found


async def find_config(settings: Settings, store: Store) -> tuple[Config, list[str]]:
    """Return the owner's file, or else the last one that was right, and what is wrong with it.

    Raises ``ConfigError`` when there is no good one at all.
    """
    try:
        return read_config(settings), []
    except ConfigError as error:
        kept = await store.kept_configuration()
        if kept is None:
            raise
        try:
            return read_config(settings, kept), list(error.mistakes)
        except ConfigError:
            raise error from None


async def wind_down(gateway: Gateway) -> None:
    """Hand over the background work, and let what is under way come to its answer."""
    await gateway.background.stop()
    left, _ = await asyncio.gather(gateway.orders.drain(DRAIN), gateway.aftersales.drain(DRAIN))
    if left:
        log.warning("stopped with orders under way", orders=left)
    with suppress(StoreUnavailable):
        await gateway.orders.take_back()  # nobody else knows of these


class Running:
    """A gateway at work, which takes up a changed file: all of it, or none of it.

    Attributes:
        gateway: by the file in force.
        problems: what is wrong with a file that could not be taken up.

    """

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        problems: list[str],
        seen: Stamps,
        *,
        work: bool = True,
        changed: Callable[[Gateway], None] = lambda _: None,
    ) -> None:
        self.gateway = gateway
        self.problems = problems
        self._settings = settings
        self._work = work
        self._changed = changed
        self._seen = seen
        self._ending: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin with the background work, and to watch the file."""
        for problem in self.problems:
            log.error("the last good file is in force", mistake=problem)
        await self._succeed()
        if not self.problems:
            await _keep(self.gateway)
        self.gateway.cache.listen(self._hear)
        self.gateway.background.start(work=self._work)
        self.gateway.listing.warm()
        self._changed(self.gateway)
        self._loops = [asyncio.create_task(one) for one in (self._watching(), self._exchanging())]

    async def _succeed(self) -> None:
        """Keep to the rates of another file that customers may have read until a moment ago."""
        gateway = self.gateway
        lately = gateway.now() - int(gateway.config.orders.rate_grace * 1000)
        for text in await gateway.store.configurations(lately):
            if text != gateway.config.text:
                with suppress(ConfigError):
                    await gateway.shop.succeed(read_config(self._settings, text))

    async def stop(self) -> None:
        """Hand over the background work, and let what is under way come to its answer."""
        await end(self._loops)
        await wind_down(self.gateway)
        if self._ending:
            await asyncio.wait(self._ending)

    def _hear(self, news: str) -> None:
        if news != CATALOG:
            self.gateway.auth.forget()
        if news != CUSTOMERS:
            self.gateway.background.hear()

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(WATCHED)
            try:
                if (seen := _look(self._settings)) != self._seen:
                    await self._take_up()
                    self._seen = seen
            except Exception:
                log.exception("the owner's file could not be looked at")

    async def _exchanging(self) -> None:
        """Have the limits hold across all processes."""
        while True:
            await asyncio.sleep(EXCHANGED)
            await self.gateway.limits.exchange(self.gateway.cache)

    async def _take_up(self) -> None:
        with gently():
            try:
                config = await soon(partial(read_config, self._settings))
            except ConfigError as error:
                self.problems = list(error.mistakes)
                for mistake in error.mistakes:
                    log.error("a changed file is not taken up", mistake=mistake)  # noqa: TRY400
                return
            self.problems = []
            if config == self.gateway.config:
                return
            before = self.gateway
            gateway = await before.changed(config)
            # The collector would look through a new file's services in one go. There is nothing in
            # them for it: they go when the gateway goes that has them.
            gc.freeze()
        await _keep(gateway)
        self.gateway = gateway
        gateway.listing.warm()
        self._changed(gateway)
        await before.background.stop()
        self.gateway.background.start(work=self._work)
        task = asyncio.create_task(wind_down(before))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        log.warning("a changed file is in force", services=len(config.services))


async def _keep(gateway: Gateway) -> None:
    await gateway.store.keep_configuration(gateway.config.text, gateway.now())


def _look(settings: Settings) -> Stamps:
    """Return what changes when the owner's file, or the ``.env`` beside it, is written."""
    path = settings.config
    return tuple(_stamp(one) for one in (path, path.parent / ".env"))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Application:
    """The ASGI application, with its life: opened at start-up, drained at shutdown."""

    def __init__(self, settings: Settings, *, background: bool = True) -> None:
        self._settings = settings
        self._background = background
        self._running: Running | None = None
        self._trouble = "starting"
        site = Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
            ],
            lifespan=self._lifespan,
        )
        self._site: App = site
        self._endpoint: Endpoint | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, by the endpoint first."""
        await (self._endpoint or self._site)(scope, receive, send)

    def ask(self, head: Head, body: bytes, client: str) -> Answer | Awaitable[Answer] | None:
        """Answer a whole request, if it is the endpoint's."""
        if self._endpoint is None or head.path not in PATHS:
            return None
        return self._endpoint.ask(head, body, client)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with at_work(self._settings, work=self._background, changed=self._serve) as running:
            self._running = running
            self._trouble = ""
            yield
            self._trouble = "stopping"

    def _serve(self, gateway: Gateway) -> None:
        self._endpoint = Endpoint(
            gateway.auth,
            gateway.shop,
            gateway.listing,
            gateway.orders,
            gateway.aftersales,
            gateway.store,
            self._site,
            limits=gateway.limits,
        )

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"ok": True})

    async def _readyz(self, _: Request) -> Response:
        problems = [self._trouble] if self._trouble else []
        gone = False
        if self._running:
            gateway = self._running.gateway
            problems += self._running.problems
            try:
                await gateway.store.edition()
            except StoreUnavailable as trouble:
                gone = True
                problems.append(f"database: {trouble}")
            declared = gateway.config.services.keys()
            if missing := len(declared - gateway.shop.catalog.services.keys()):
                problems.append(f"{missing} of {len(declared)} services are unavailable")
        ready = not self._trouble and not gone
        return JSONResponse({"ready": ready, "problems": problems}, 200 if ready else 503)


@asynccontextmanager
async def at_work(
    settings: Settings,
    *,
    work: bool = True,
    changed: Callable[[Gateway], None] = lambda _: None,
) -> AsyncIterator[Running]:
    """Open everything and let it work for as long as the context lasts."""
    seen = _look(settings)  # before it is read: what is written meanwhile is news
    store = await open_store(settings.database_url)
    try:
        config, problems = await find_config(settings, store)
    finally:
        await store.close()
    async with open_gateway(config, settings) as gateway:
        running = Running(gateway, settings, problems, seen, work=work, changed=changed)
        del config, gateway  # as in ``open_gateway``
        await running.start()
        with watching():
            yield running
        await running.stop()
