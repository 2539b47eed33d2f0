"""Where Redis is: every form that is read, and every mistake with what would be right."""

import re
from pathlib import Path
from typing import Any

import pytest

from gateway.redis_url import FORMS, Address, Kind, read

SERVER, SENTINEL, CLUSTER = Kind.SERVER, Kind.SENTINEL, Kind.CLUSTER


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://a", {"hosts": (("a", 6379),)}),
        ("redis://", {"hosts": (("localhost", 6379),)}),
        ("redis://:7000/3", {"hosts": (("localhost", 7000),), "database": 3}),
        ("redis://a:7000/?db=4", {"hosts": (("a", 7000),), "database": 4}),
        ("redis://[::1]:7000", {"hosts": (("::1", 7000),)}),
        ("redis://:p@a", {"hosts": (("a", 6379),), "password": "p"}),
        ("redis://n:p%40%2f@a", {"hosts": (("a", 6379),), "username": "n", "password": "p@/"}),
        ("redis://n:p:q@a", {"hosts": (("a", 6379),), "username": "n", "password": "p:q"}),
        ("rediss://a", {"hosts": (("a", 6379),), "tls": {}}),
        (
            "rediss://a?ssl_cert_reqs=none&ssl_check_hostname=false",
            {
                "hosts": (("a", 6379),),
                "tls": {"ssl_cert_reqs": "none", "ssl_check_hostname": False},
            },
        ),
        ("unix:///run/redis.sock", {"socket": "/run/redis.sock"}),
        (
            "unix://n:p@/a%20b?db=2",
            {"socket": "/a b", "username": "n", "password": "p", "database": 2},
        ),
        (
            "redis+sentinel://a,b:7,[::2]/ours/1",
            {
                "kind": SENTINEL,
                "hosts": (("a", 26379), ("b", 7), ("::2", 26379)),
                "service": "ours",
                "database": 1,
            },
        ),
        (
            "rediss+sentinel://n:p@a/ours?sentinel_username=s&sentinel_password=%2Bt",
            {
                "kind": SENTINEL,
                "hosts": (("a", 26379),),
                "service": "ours",
                "username": "n",
                "password": "p",
                "sentinel_username": "s",
                "sentinel_password": "+t",
                "tls": {},
            },
        ),
        ("redis+cluster://a,b:7", {"kind": CLUSTER, "hosts": (("a", 6379), ("b", 7))}),
        (
            "rediss+cluster://:p@a:7/0",
            {"kind": CLUSTER, "hosts": (("a", 7),), "password": "p", "tls": {}},
        ),
    ],
)
def test_every_form_is_read(url: str, said: dict[str, Any]) -> None:
    expected: Any = {"kind": SERVER} | said

    assert Address(**expected) == read(url)


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("a:6379", FORMS),
        ("http://:5ecret@a", FORMS),
        ("redis+unix://:5ecret@a", FORMS),
        ("unixs:///a", FORMS),
        ("Redis://a", FORMS),
        ("redis://:5ec/ret@a", "/ as %2F"),
        ("redis://:5ec?ret@a", "? as %3F"),
        ("redis://:5ec#ret@a", "# as %23"),
        ("redis://:5ec%ret@a", "% as %25"),
        ("redis://:5ec ret@a", "a space as %20"),
        ("redis://5ecret@a", "redis://:password@host where there are no users"),
        ("redis://:5ecret@a:0", "a port from 1 to 65535"),
        ("redis://:5ecret@a:65536", "a port from 1 to 65535"),
        ("redis://:5ecret@a:b", "a port from 1 to 65535"),
        ("redis://:5ecret@::1", "[::1]:6379"),
        ("redis://:5ecret@a,b", "redis+cluster://"),
        ("redis://:5ecret@a/first", "a database is a number"),
        ("redis://:5ecret@a/0/1", "a database is a number"),
        ("redis://:5ecret@a?socket_timeout=5ecret", "there are db"),
        ("redis://:5ecret@a?db=", "there are db"),
        ("redis://:5ecret@a?ssl_ca_certs=/5ecret", "give rediss://"),
        ("rediss://:5ecret@a?ssl_ca_certs=/5ecret", "ssl_ca_certs: there is no such file"),
        ("rediss://:5ecret@a?ssl_cert_reqs=5ecret", "give required or optional or none"),
        ("rediss://:5ecret@a?ssl_check_hostname=5ecret", "give true or false"),
        ("unix://", "unix:///run/redis.sock"),
        ("unix://5ecret/a", "unix:///run/redis.sock"),
        ("redis+sentinel://:5ecret@a", "give redis+sentinel://host:26379,host:26379/service/0"),
        ("redis+sentinel://:5ecret@a/ours/x", "a database is a number"),
        ("redis+cluster://:5ecret@a/1", "a cluster has only database 0"),
        ("redis+cluster://:5ecret@a?sentinel_password=5ecret", "there are db"),
    ],
)
def test_a_mistake_is_told_with_what_is_right_and_without_a_secret(url: str, right: str) -> None:
    with pytest.raises(ValueError, match=re.escape(right)) as told:
        read(url)

    assert "5ec" not in str(told.value)


def test_files_with_certificates_are_there_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()

    assert {"ssl_ca_certs": str(file)} == read(f"rediss://a?ssl_ca_certs={file}").tls


def test_what_is_shown_of_it_has_no_password() -> None:
    for url in ("rediss://5ecret:5ecret@a", "redis+sentinel://a/5ecret?sentinel_password=5ecret"):
        assert "5ecret" not in repr(read(url))
    assert "<Redis server at (('a', 6379),)>" == repr(read("redis://a"))
