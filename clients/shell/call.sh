#!/usr/bin/env bash
# Call any method from the shell: the servers answer reflection, so no .proto files are needed.
#
#   clients/shell/call.sh ADDRESS METHOD REQUEST-IN-JSON
#   clients/shell/call.sh 127.0.0.1:8010 tessera.api.registry.v1.RegistryService/ListVersions '{"filter": "family = \"puzzle_cells\""}'
#
# Needs buf (npm install @bufbuild/buf). A server with TLS and tokens: TESSERA_TLS_CA and TESSERA_TOKEN_FILE name the files.
# The same with grpcurl, which keeps the token out of the list of processes as well:
#
#   TOKEN=$(cat "$TESSERA_TOKEN_FILE") grpcurl -cacert "$TESSERA_TLS_CA" -expand-headers -H 'authorization: Bearer ${TOKEN}' \
#     -d REQUEST-IN-JSON ADDRESS METHOD          # -plaintext in place of -cacert without TLS
set -euo pipefail
address=${1:?host:port} method=${2:?package.Service/Method} request=${3:-"{}"}

options=(--protocol grpc)
if [ -n "${TESSERA_TLS_CA:-}" ]; then
  url=https://$address/$method
  options+=(--cacert "$TESSERA_TLS_CA")
else
  url=http://$address/$method
  options+=(--http2-prior-knowledge)
fi
if [ -n "${TESSERA_TOKEN_FILE:-}" ]; then # from a file, since everybody on this machine sees the words of a command
  headers=$(mktemp)
  trap 'rm -f "$headers"' EXIT
  printf 'Authorization: Bearer %s\n' "$(cat "$TESSERA_TOKEN_FILE")" >"$headers"
  options+=(--header "@$headers" --reflect-header '*')
fi
buf curl "${options[@]}" --data @- "$url" <<<"$request"
