"""What the machine decides: where things are, from ``GATEWAY_…`` variables and flags.

A flag comes before the environment, the environment before a ``.env`` file beside the owner's
file, and an empty variable counts as unset.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway import redis_url
from gateway.errors import ConfigError

PREFIX = "GATEWAY_"
OWNERS_FILE = Path("providers.yaml")


def database(url: str) -> str:
    """Return the URL of a database; ``ValueError`` says what would be right."""
    # These addresses hold passwords, so that no message repeats one.
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite" and rest.startswith("/") and rest.strip("/"):
        return url
    if separator and scheme == "postgresql" and _is_address(url):
        return url
    msg = (
        "no database is reached that way; give sqlite:///gateway.db, sqlite:////var/lib/gateway.db"
        " or postgresql://name:password@host/database"
    )
    raise ValueError(msg)


def _redis(url: str) -> str:
    if url:
        redis_url.read(url)
    return url


def _is_address(url: str) -> bool:
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
        ports = [urlsplit(f"//{host}").port for host in hosts]
        return 0 not in ports and not any(letter.isspace() for letter in url)
    except ValueError:
        return False


def _host(host: str) -> str:
    if not host or "/" in host or any(letter.isspace() for letter in host):
        msg = f"{host!r} is no host; give a name or an address such as 127.0.0.1"
        raise ValueError(msg)
    return host


def _port(port: object) -> object:
    if isinstance(port, str) and not (port.isascii() and port.isdigit()):
        msg = f"{port[:60]!r} is no port; give a number from 0 to 65535, 0 for any that is free"
        raise ValueError(msg)
    return port


def _folded(word: object) -> object:
    return word.casefold() if isinstance(word, str) else word


class Settings(BaseSettings):
    """Where things are on this machine.

    Attributes:
        config: the owner's file.
        database_url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://…``;
            of several hosts, ``host:port,host:port``, the one that takes writes is used.
        redis_url: empty for a cache in this process; else ``redis://user:password@host:6379/0``,
            ``rediss://…`` with TLS, ``unix:///run/redis.sock``,
            ``redis+sentinel://host:26379,host:26379/service/0`` or
            ``redis+cluster://host:6379,host:6379`` (``rediss+sentinel``, ``rediss+cluster``).
            Certificates: ``?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE``.
        port: 0 for any that is free.
        admin_token: empty when only callers on this machine may see the owner's pages.
        log_format: ``None``: for people on a terminal, else JSON.

    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    config: Path = OWNERS_FILE
    database_url: Annotated[str, AfterValidator(database)] = Field(
        default="sqlite:///gateway.db", repr=False
    )
    redis_url: Annotated[str, AfterValidator(_redis)] = Field(default="", repr=False)
    host: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535), BeforeValidator(_port)] = 8000
    admin_token: SecretStr = SecretStr("")
    log_format: Annotated[Literal["console", "json"] | None, BeforeValidator(_folded)] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_folded)
    ] = "info"


_RIGHT = {
    "config": "give the path of the owner's file, such as providers.yaml",
    "port": "give a number from 0 to 65535, 0 for any that is free",
    "log_format": "give console or json",
    "log_level": "give debug, info, warning, error or critical",
}


def load(**flags: Any) -> Settings:  # noqa: ANN401 -- pydantic judges them
    """Return the settings; ``flags`` are called as the attributes, ``None`` being no flag.

    Raises:
        ConfigError: with every mistake, each naming its variable or flag and what would be right.

    """
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    # The .env beside the owner's file can't say where that file is.
    config = given.get("config") or os.environ.get(f"{PREFIX}CONFIG") or OWNERS_FILE
    beside = _beside(Path(str(config)))
    given |= {"config": config, "_env_file": beside}
    try:
        return Settings(**given)
    except UnicodeDecodeError:
        raise _not_utf8(beside) from None
    except ValidationError as error:
        raise ConfigError(
            *(_told(str(d["loc"][0]), d.get("ctx", {}).get("error"), given) for d in error.errors())
        ) from None


def environment(settings: Settings) -> dict[str, str]:
    """Return what ``${VAR}`` may name: the ``.env`` beside the owner's file, then the real one."""
    beside = _beside(settings.config)
    try:
        values = dotenv_values(beside, interpolate=False)
    except UnicodeDecodeError:
        raise _not_utf8(beside) from None
    real = {name: value for name, value in os.environ.items() if value}
    return {name: value for name, value in values.items() if value} | real


def _beside(config: Path) -> Path:
    return config.parent / ".env"


def _told(field: str, reason: object, flags: dict[str, object]) -> str:
    name = f"--{field.replace('_', '-')}" if field in flags else f"{PREFIX}{field.upper()}"
    return f"{name}: {reason or f'this value is not known; {_RIGHT[field]}'}"


def _not_utf8(path: Path) -> ConfigError:
    return ConfigError(f"{path}:1:1: this is not UTF-8; save the file in that encoding")
