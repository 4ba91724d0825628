#!/usr/bin/env bash
# Generate tessera/api from protos/. The result is checked in; `make protos` runs this, a test demands that it changes nothing.
#   scripts/protos.sh [OUT]     OUT: where to write, default the repository root
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
bin=$(cd "${VENV:-.venv}/bin" && pwd)
rm -rf "$out/tessera/api"
mkdir -p "$out/tessera/api"
protos=$(cd protos && find tessera -name '*.proto' | sort)
# shellcheck disable=SC2086
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -Iprotos \
  --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" $protos
find "$out/tessera/api" -type d -exec touch {}/__init__.py \;
