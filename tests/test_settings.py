"""What the machine decides: flags before the environment before the ``.env`` file."""

import os
from pathlib import Path

import pytest

from gateway import settings
from gateway.errors import ConfigError

PORT = "this value is not known; give a number from 0 to 65535, 0 for any that is free"
DATABASE = (
    "--database-url: no database is reached that way; give sqlite:///gateway.db, "
    "sqlite:////var/lib/gateway.db or postgresql://name:password@host/database"
)
REDIS = (
    "--redis-url: no Redis is reached that way; give redis://user:password@host:6379/0 "
    "(rediss:// with TLS), unix:///run/redis.sock, "
    "redis+sentinel://host:26379,host:26379/service/0, redis+cluster://host:6379,host:6379, "
    "or nothing for the cache in this process"
)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, with no variable of ours set."""
    for name in list(os.environ):
        if name.upper().startswith("GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistakes(**flags: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings.load(**flags)
    return list(caught.value.mistakes)


def test_nothing_set_is_the_documented_defaults() -> None:
    """A first start needs no variable."""
    found = settings.load()

    assert found.config == Path("providers.yaml")
    assert found.database_url == "sqlite:///gateway.db"
    assert (found.redis_url, found.host, found.port) == ("", "127.0.0.1", 8000)
    assert found.admin_token.get_secret_value() == ""
    assert (found.log_format, found.log_level) == (None, "info")


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting has a variable of its name."""
    for name, value in {
        "CONFIG": "other.yaml", "DATABASE_URL": "postgresql://me:pw@db/gateway",
        "REDIS_URL": "rediss://cache:6380/1", "HOST": "::", "PORT": "9000", "ADMIN_TOKEN": "t",
        "LOG_FORMAT": "json", "LOG_LEVEL": "WARNING",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"GATEWAY_{name}", value)

    found = settings.load()

    assert found.config == Path("other.yaml")
    assert found.database_url == "postgresql://me:pw@db/gateway"
    assert (found.redis_url, found.host, found.port) == ("rediss://cache:6380/1", "::", 9000)
    assert found.admin_token.get_secret_value() == "t"
    assert (found.log_format, found.log_level) == ("json", "warning")


def test_a_flag_comes_before_the_environment_and_that_before_the_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who speaks last and nearest is heard."""
    (nowhere / ".env").write_text("GATEWAY_PORT=1\nGATEWAY_HOST=file\nGATEWAY_LOG_LEVEL=debug\n")
    monkeypatch.setenv("GATEWAY_PORT", "2")
    monkeypatch.setenv("GATEWAY_HOST", "environment")

    found = settings.load(port=3, host=None)

    assert (found.port, found.host, found.log_level) == (3, "environment", "debug")


def test_the_env_file_is_the_one_beside_the_owners_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the program was started, and whoever named the file."""
    folder = nowhere / "shop"
    folder.mkdir()
    (folder / ".env").write_text("GATEWAY_PORT=1\nGATEWAY_CONFIG=elsewhere.yaml\n")
    (nowhere / ".env").write_text("GATEWAY_PORT=2\n")

    by_flag = settings.load(config=folder / "providers.yaml")
    monkeypatch.setenv("GATEWAY_CONFIG", "shop/providers.yaml")
    by_variable = settings.load()

    assert (by_flag.port, by_flag.config) == (1, folder / "providers.yaml")
    assert (by_variable.port, by_variable.config) == (1, Path("shop/providers.yaml"))


def test_an_empty_variable_counts_as_unset(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one in the environment doesn't hide the file's, either."""
    (nowhere / ".env").write_text("GATEWAY_PORT=9000\nGATEWAY_LOG_LEVEL=\n")
    for name in ("CONFIG", "PORT", "DATABASE_URL", "REDIS_URL", "HOST", "LOG_FORMAT"):
        monkeypatch.setenv(f"GATEWAY_{name}", "")

    found = settings.load()

    assert (found.port, found.log_level, found.log_format) == (9000, "info", None)
    assert (found.host, found.database_url) == ("127.0.0.1", "sqlite:///gateway.db")


def test_keys_come_from_the_env_file_and_the_real_environment_wins(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``${VAR}`` may name; an empty one is none, and a dollar sign is a dollar sign."""
    (nowhere / ".env").write_text("A=file\nB=file\nC=a${B}c\nD=\nE='x y'\n")
    monkeypatch.setenv("A", "real")
    monkeypatch.setenv("B", "")

    found = settings.environment(settings.load())

    assert ("real", "file", "a${B}c", "x y") == tuple(found[name] for name in "ABCE")
    assert "D" not in found


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PORT", "tcp://10.0.0.1:80",
         "'tcp://10.0.0.1:80' is no port; give a number from 0 to 65535, 0 for any that is free"),
        ("PORT", "70000", PORT),
        ("HOST", "a b", "'a b' is no host; give a name or an address such as 127.0.0.1"),
        ("HOST", "http://a", "'http://a' is no host; give a name or an address such as 127.0.0.1"),
        ("LOG_FORMAT", "xml", "this value is not known; give console or json"),
        ("LOG_LEVEL", "loud",
         "this value is not known; give debug, info, warning, error or critical"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named_with_what_would_be_right(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence for each."""
    monkeypatch.setenv(f"GATEWAY_{variable}", value)

    assert [f"GATEWAY_{variable}: {told}"] == mistakes()


@pytest.mark.parametrize(
    "url",
    ["gateway.db", "sqlite:gateway.db", "sqlite://", "sqlite:///", "sqlite://gateway.db",
     "postgres://me:5ecret@db/x", "mysql://me:5ecret@db/x", "postgresql://me:5ecret@db:99999/x"],
)  # fmt: skip
def test_a_wrong_database_is_refused_without_repeating_it(url: str) -> None:
    """Such an address holds a password."""
    told = mistakes(database_url=url)

    assert [DATABASE] == told


@pytest.mark.parametrize("url", ["localhost:6379", "http://a:5ecret@b", "redis+http://:5ecret@b"])
def test_a_wrong_redis_is_refused_without_repeating_it(url: str) -> None:
    """Such an address holds a password, too."""
    told = mistakes(redis_url=url)

    assert [REDIS] == told


@pytest.mark.parametrize(
    "url", ["sqlite:///gateway.db", "sqlite:////var/lib/gateway.db", "sqlite:///data/a.db",
            "postgresql://db/x", "postgresql:///x?host=/run/postgresql"],
)  # fmt: skip
def test_a_database_is_kept_as_it_was_given(url: str) -> None:
    """Both databases, with a path or a host."""
    assert url == settings.load(database_url=url).database_url


@pytest.mark.parametrize(
    "url", ["redis://a", "rediss://u:p@a:6380/2", "unix:///run/redis.sock",
            "redis+sentinel://a,b:26380/main", "rediss+cluster://u:p@a,b"],
)  # fmt: skip
def test_a_redis_is_kept_as_it_was_given(url: str) -> None:
    """All the ways to it."""
    assert url == settings.load(redis_url=url).redis_url


def test_all_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag is called by its name, a variable by its own."""
    monkeypatch.setenv("GATEWAY_LOG_FORMAT", "xml")

    told = mistakes(port="x", host="")

    assert [
        "--host: '' is no host; give a name or an address such as 127.0.0.1",
        "--port: 'x' is no port; give a number from 0 to 65535, 0 for any that is free",
        "GATEWAY_LOG_FORMAT: this value is not known; give console or json",
    ] == told


def test_an_env_file_that_is_not_utf8_is_refused(nowhere: Path) -> None:
    """By the settings, and by what reads the keys."""
    calm = settings.load()
    (nowhere / ".env").write_bytes(b"A=\xff\n")

    assert [".env:1:1: this is not UTF-8; save the file in that encoding"] == mistakes()
    with pytest.raises(ConfigError, match="not UTF-8"):
        settings.environment(calm)


def test_settings_are_shown_without_their_secrets() -> None:
    """A log line with all settings in it has no password in it."""
    found = settings.load(
        database_url="postgresql://me:5ecret@db/x", redis_url="redis://:5ecret@a",
        admin_token="5ecret",
    )  # fmt: skip

    assert "5ecret" not in repr(found)
