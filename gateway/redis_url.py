"""Where Redis is, as a URL says it: one server, one behind Sentinels, or a cluster.

A URL may hold passwords, so no message and no representation repeats any of it but host names.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import msgspec


class Kind(StrEnum):
    """What answers at the addresses."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Address(msgspec.Struct, frozen=True):
    """Where Redis is and how one gets in.

    Attributes:
        hosts: names and ports: of the server, of the Sentinels, or of some nodes of the cluster.
        socket: the file of a socket on this machine, in place of a host.
        service: what the Sentinels call the server.
        tls: what redis-py is told of certificates, under its own names; ``None`` without TLS.
        sentinel_username: for the Sentinels alone; ``username`` and ``password`` are the server's.

    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    socket: str = ""
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: Mapping[str, str | bool] | None = None

    def __repr__(self) -> str:
        """Return what may be shown."""
        return f"<Redis {self.kind} at {self.socket or self.hosts}>"


FORMS = (
    "give redis://user:password@host:6379/0 (rediss:// with TLS),"
    " unix:///run/redis.sock, redis+sentinel://host:26379,host:26379/service/0,"
    " redis+cluster://host:6379,host:6379, or nothing for the cache in this process"
)

_SCHEMES = {
    "redis": Kind.SERVER,
    "unix": Kind.SERVER,
    "redis+sentinel": Kind.SENTINEL,
    "redis+cluster": Kind.CLUSTER,
}
_PORTS = {Kind.SERVER: 6379, Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_CHOICES: Mapping[str, Mapping[str, str | bool]] = {
    "ssl_cert_reqs": {"required": "required", "optional": "optional", "none": "none"},
    "ssl_check_hostname": {"true": True, "false": False},
}
_TLS = (*_FILES, *_CHOICES)
_SENTINEL = ("sentinel_username", "sentinel_password")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^][:@\s]+)?(?::(?P<port>[0-9]{1,5}))?")
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})|#|\s")
_HIGHEST_PORT = 65535


def read(url: str) -> Address:
    """Return what a URL says.

    Raises ``ValueError`` with a sentence that says what would be right.
    """
    scheme, separator, rest = url.partition("://")
    encrypted = scheme.startswith("rediss")
    kind = _SCHEMES.get(scheme.replace("rediss", "redis", 1))
    if not separator or kind is None:
        raise ValueError(f"no Redis is reached that way; {FORMS}")
    rest, _, query = rest.partition("?")
    there, _, path = rest.partition("/")
    access, _, named = there.rpartition("@")
    if _STRAY.search(url) or "@" in path + query:
        raise ValueError(
            "a sign of this address has a meaning of its own; in a user's name, a password or a"
            " path write @ as %40, / as %2F, ? as %3F, # as %23, % as %25 and a space as %20"
        )
    username, colon, password = access.partition(":")
    if username and not colon:
        raise ValueError(
            "a name stands here without a password; give redis://user:password@host, or"
            " redis://:password@host where there are no users"
        )
    options = _options(query, kind, encrypted=encrypted)
    found = Address(
        kind=kind,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=_tls(options) if encrypted else None,
    )
    if scheme == "unix":
        if named or not path:
            raise ValueError("a socket has no host but a whole path; give unix:///run/redis.sock")
        socket, database = f"/{unquote(path)}", _database(options.get("db", ""))
        return msgspec.structs.replace(found, socket=socket, database=database)
    hosts = tuple(_host(one, _PORTS[kind]) for one in named.split(","))
    if kind is Kind.SERVER and len(hosts) > 1:
        raise ValueError(
            "several hosts stand here; give redis+sentinel:// with a service, or redis+cluster://"
        )
    if kind is Kind.SENTINEL:
        service, _, path = path.partition("/")
        if not service:
            raise ValueError(
                "the Sentinels must be told which service is meant; give"
                " redis+sentinel://host:26379,host:26379/service/0"
            )
        found = msgspec.structs.replace(found, service=unquote(service))
    database = _database(path or options.get("db", ""))
    if kind is Kind.CLUSTER and database:
        raise ValueError("a cluster has only database 0; give redis+cluster://host:6379,host:6379")
    return msgspec.structs.replace(found, hosts=hosts, database=database)


def _host(text: str, usual: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    port = int(found["port"] or usual) if found else 0
    if found is None or not 1 <= port <= _HIGHEST_PORT:
        raise ValueError(
            "this is no host; give host, host:6379 or [::1]:6379, with a port from 1 to 65535"
        )
    return (found["host"] or "localhost").strip("[]"), port


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < len("99999")):
        raise ValueError("a database is a number; give redis://host:6379/0")
    return int(text or 0)


def _options(query: str, kind: Kind, *, encrypted: bool) -> dict[str, str]:
    """Return what stands behind the question mark."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    known = ["db", *(_TLS if encrypted else ()), *(_SENTINEL if kind is Kind.SENTINEL else ())]
    for name, _, value in pairs:
        if name in _TLS and not encrypted:
            raise ValueError("certificates stand here without TLS; give rediss:// in place of it")
        if name not in known or not value:
            raise ValueError(
                f"an option behind the ? is not known or empty; there are {', '.join(known)}"
            )
    return dict(parse_qsl(query, keep_blank_values=True))


def _tls(options: Mapping[str, str]) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {}
    for name, value in options.items():
        if name in _FILES:
            if not Path(value).is_file():
                raise ValueError(f"{name}: there is no such file; give the path of a PEM file")
            found[name] = value
        elif name in _CHOICES:
            if value not in _CHOICES[name]:
                raise ValueError(f"{name}: give {' or '.join(_CHOICES[name])}")
            found[name] = _CHOICES[name][value]
    return found
