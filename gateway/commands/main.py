"""Every command, in one table."""

from typing import Annotated

import typer

from gateway.commands import (
    books,
    catalog,
    customer,
    demo,
    order,
    plan,
    provider,
    sandbox,
    serve,
    simulate,
    store,
)
from gateway.commands.terminal import FLAGS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An API v2 gateway for resellers: many providers, one endpoint, books that add up.",
)


@app.callback()
def flags(
    database_url: Annotated[
        str | None, typer.Option(help="Overrides GATEWAY_DATABASE_URL.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="Overrides GATEWAY_REDIS_URL.")] = None,
    config: Annotated[str | None, typer.Option(help="Overrides GATEWAY_CONFIG.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    """Take the flags that all commands share."""
    FLAGS.update(
        database_url=database_url,
        redis_url=redis_url,
        config=config,
        log_format=log_format,
        log_level=log_level,
    )


app.command()(demo.demo)
app.command()(serve.serve)
app.command("sandbox")(sandbox.serve_sandbox)
app.command()(simulate.simulate)
app.command()(serve.background)
app.command()(serve.check)
app.command()(plan.plan)
app.command()(provider.sync)
app.add_typer(customer.app, name="customer")
app.add_typer(order.app, name="order")
app.add_typer(provider.app, name="provider")
app.add_typer(store.app, name="store")
app.add_typer(catalog.app, name="catalog")
app.command()(books.audit)


def main() -> None:
    """Run the command line."""
    app()
