#!/usr/bin/env bash
# Install for the competition: install_tool.sh v1
set -euo pipefail

[ "${1:-}" = v1 ] || { echo "usage: install_tool.sh v1 (got '${1:-}')" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# a fresh machine lacks some of these
if ! { command -v make && python3 -m ensurepip --version; } >/dev/null 2>&1 && command -v apt-get >/dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq make python3 python3-venv >/dev/null
fi
make install
.venv/bin/geolip-lirpa --version
