"""The `tessera` command: its options and its groups of commands, each in a module of its own."""

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli import alias, experiments, jobs, models, queue, rollout, samples, versions
from tessera.cli.connection import Connection
from tessera.cli.demo.command import demo
from tessera.cli.failures import EXIT_CODES_HELP, ReportingGroup
from tessera.cli.families import families
from tessera.cli.gc import gc
from tessera.cli.infer import infer
from tessera.cli.options import complete_profiles
from tessera.cli.output import log_to_stderr
from tessera.cli.predict import predict
from tessera.cli.promote import promote, rollback
from tessera.cli.reconstruct import reconstruct
from tessera.cli.stack import down, logs, status, up
from tessera.cli.train import train

app = typer.Typer(
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold tokens
    help="Train a vision model, register a verified version, and serve it over gRPC.",
    epilog=EXIT_CODES_HELP,
)


@app.callback()
def options(
    ctx: typer.Context,
    *,
    profile: Annotated[
        str | None,
        typer.Option(
            envvar="TESSERA_PROFILE",
            metavar="NAME",
            help="Servers, certificates and token from profiles/NAME.toml under the home; single options win.",
            autocompletion=complete_profiles,
        ),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(envvar="TESSERA_REGISTRY_ADDRESS", metavar="HOST:PORT", help="Where the registry is.", show_default="local stack"),
    ] = None,
    trainer: Annotated[
        str | None,
        typer.Option(envvar="TESSERA_TRAINER_ADDRESS", metavar="HOST:PORT", help="Where the trainer is.", show_default="local stack"),
    ] = None,
    inference: Annotated[
        str | None,
        typer.Option(
            envvar="TESSERA_INFERENCE_ADDRESS",
            metavar="HOST:PORT",
            help="Where inference is; ipv4:IP:PORT,IP:PORT for several servers.",
            show_default="local stack",
        ),
    ] = None,
    home: Annotated[
        Path | None, typer.Option(envvar="TESSERA_HOME", help="Directory of the local stack.", show_default="~/.tessera", file_okay=False)
    ] = None,
    timeout: Annotated[float, typer.Option(envvar="TESSERA_TIMEOUT_S", min=0.1, help="Seconds until a call is given up.")] = 10.0,
    token_file: Annotated[
        Path | None, typer.Option(envvar="TESSERA_TOKEN_FILE", help="File with the bearer token; or set TESSERA_TOKEN.", dir_okay=False)
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option(envvar="TESSERA_TLS_CA", help="Certificates (PEM) that vouch for the servers.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(envvar="TESSERA_TLS_CERT", help="Own certificate (PEM) for mutual TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="TESSERA_TLS_KEY", help="Key (PEM) of the own certificate.")] = None,
    allow_insecure: Annotated[
        bool, typer.Option("--allow-insecure", envvar="TESSERA_ALLOW_INSECURE", help="Send the token without TLS to other machines too.")
    ] = False,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="TESSERA_OTLP_ENDPOINT", metavar="URL", help="Where the traces of calls go: http://host:4317 (OTLP over gRPC)."
        ),
    ] = None,
) -> None:
    """Remember how to reach the servers; connections are made when a command needs them."""
    from tessera.stack.home import default_home

    ctx.obj = Connection(
        home=(home or default_home()).expanduser().absolute(),
        profile_name=profile,
        registry=registry,
        trainer=trainer,
        inference=inference,
        timeout_s=timeout,
        token_file=token_file,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allow_insecure=allow_insecure,
    )
    if otlp_endpoint:
        from tessera import telemetry

        log_to_stderr()
        telemetry.setup("cli", otlp_endpoint)
        ctx.call_on_close(telemetry.shutdown)


for command in (up, down, status, logs, families, train, predict, infer, reconstruct, promote, rollback, gc, demo):
    app.command()(command)
GROUPS = {
    "models": models,
    "versions": versions,
    "alias": alias,
    "rollout": rollout,
    "jobs": jobs,
    "queue": queue,
    "experiments": experiments,
    "samples": samples,
}
for name, group in GROUPS.items():
    app.add_typer(group.app, name=name)
