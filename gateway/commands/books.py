"""``gateway audit``: the proof of the books."""

import typer

from gateway import ledger
from gateway.commands.start import Json, command, show_json
from gateway.commands.terminal import err, opened_store, out


@command
async def audit(json: Json = False) -> None:  # noqa: FBT002
    """Recompute every balance and every order from the transfers; exit 1 if anything is off."""
    async with opened_store() as (store, _):
        with err.status("recomputing the books"):
            found = await store.inspect(ledger.audit)
    if json:
        show_json(
            {
                "ok": found.ok,
                "transfers": found.transfers,
                "accounts": found.accounts,
                "problems": found.problems,
            }
        )
    else:
        verdict = "the books add up" if found.ok else "the books do NOT add up"
        out.print(f"{verdict}: {found.transfers} transfers, {found.accounts} accounts")
        for problem in found.problems:
            out.print(f"  {problem}", markup=False, soft_wrap=True)
    if not found.ok:
        raise typer.Exit(1)
