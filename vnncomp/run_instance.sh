#!/usr/bin/env bash
# Run one instance of the competition: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT
# The first line of RESULTS_FILE is sat, unsat, unknown or timeout; a witness follows sat. What the tool refuses is
# unknown, with its reason on standard error. Exit code 0 whenever RESULTS_FILE was written.
set -euo pipefail

[ "${1:-}" = v1 ] && [ $# -eq 6 ] ||
    { echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT" >&2; exit 2; }
# shellcheck source=vnncomp/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
results=$5
limit=$6
group=

# stays if this script is killed
echo timeout >"$results"
found=$(mktemp "$results.XXXXXX")
trap 'rm -f "$found" "$RUNNING"' EXIT
trap '[ -z "$group" ] || kill -KILL -- "-$group" 2>/dev/null; exit 1' TERM INT HUP

if ! { model=$(existing "$3") && specification=$(existing "$4"); }; then
    echo unknown >"$results"
    exit 0
fi
# a group of its own, by which prepare_instance.sh can end it
setsid "${TOOL[@]}" verify "$specification" --network "$model" --timeout "$limit" >"$found" &
group=$!
echo "$group" >"$RUNNING"
if ! wait "$group" || ! grep -qxE 'sat|unsat|unknown|timeout' <(head -n 1 "$found"); then
    echo unknown >"$found"
fi
chmod --reference="$results" "$found"
mv -f "$found" "$results"
