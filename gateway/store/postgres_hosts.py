"""Several servers in one URL, of which the one that takes writes is used."""

from urllib.parse import parse_qsl, urlencode, urlsplit

from gateway.errors import ConfigError


def each(url: str) -> list[str]:
    """Return a URL for each server that this one names, in turn.

    They stand where one does, ``postgresql://a:5432,b:5432/db``, or among the options, with a port
    each or one in common: ``postgresql:///db?host=a,b&port=5432``. Raises ``ConfigError``.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    who, at, named = parts.netloc.rpartition("@")
    hosts = (named or options.get("host", "")).split(",")
    if len(hosts) == 1:
        return [url]
    options.setdefault("target_session_attrs", "read-write")
    if named:
        query = urlencode(options)
        return [parts._replace(netloc=f"{who}{at}{one}", query=query).geturl() for one in hosts]
    ports = options.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ConfigError(f"the database: {len(hosts)} hosts have {len(ports)} ports")
    return [
        parts._replace(query=urlencode({**options, "host": host, "port": port})).geturl()
        for host, port in zip(hosts, ports, strict=True)
    ]
