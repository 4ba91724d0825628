"""`python -m tessera.cli` is `tessera`."""

from tessera.cli.main import app

app(prog_name="tessera")
