#!/usr/bin/env bash
# Put prometheus and promtool, which the tests of dashboards and rules need, into a folder: those on the PATH, else Debian's, without root.
#   scripts/prometheus.sh DIR
set -euo pipefail
dir=$1
rm -rf "$dir"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

have() {
    command -v "$1" >/dev/null && command -v "$2" >/dev/null
}

if have prometheus promtool; then
    ln -s "$(command -v prometheus)" "$(command -v promtool)" "$dir"
elif have apt-get dpkg-deb; then
    # Lists and packages of our own, so that the system's stay as they are.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    own=(-qq -o "Dir::State=$work/state" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=)
    apt-get "${own[@]}" update
    (cd "$work" && apt-get "${own[@]}" download prometheus && dpkg-deb -x prometheus_*.deb tree)
    mv "$work"/tree/usr/bin/{prometheus,promtool} "$dir"
else
    echo "prometheus and promtool are missing: install Prometheus (https://prometheus.io/download), with both on the PATH" >&2
    exit 1
fi
"$dir/prometheus" --version 2>&1 | head -n 1
