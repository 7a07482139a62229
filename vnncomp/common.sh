# Shared by prepare_instance.sh and run_instance.sh, which source it.
# shellcheck shell=bash disable=SC2034

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# the program and its first arguments; another installation can be named
read -ra TOOL <<<"${GEOLIP_LIRPA:-$ROOT/.venv/bin/geolip-lirpa}"
# where a running instance leaves the number of its process group
RUNNING=${TMPDIR:-/tmp}/geolip-lirpa-vnncomp-$(id -u)

# existing FILE: the file, or the file with .gz; nothing if there is neither
existing() {
    local path
    for path in "$1" "$1.gz"; do
        [ -f "$path" ] && { printf '%s\n' "$path"; return 0; }
    done
    echo "no such file: $1" >&2
    return 1
}
