#!/usr/bin/env bash
# Prepare one instance of the competition: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# Ends what an earlier instance has left, checks that both files are there, and loads the libraries once, so that
# their files are in memory when time counts. Exit code 0: the instance may run.
set -euo pipefail

[ "${1:-}" = v1 ] && [ $# -eq 4 ] || { echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2; exit 2; }
# shellcheck source=vnncomp/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ -f "$RUNNING" ]; then
    group=$(<"$RUNNING")
    # its children notice that it has gone and end
    [[ $group =~ ^[0-9]+$ ]] && kill -KILL -- "-$group" 2>/dev/null || true
    rm -f "$RUNNING"
fi
existing "$3" >/dev/null
existing "$4" >/dev/null
"${TOOL[@]}" --version >/dev/null
