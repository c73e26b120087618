#!/usr/bin/env bash
# Fetch Linux wheels into a folder, for an image that is then built without any network.
#
#   tools/fetch_wheels.sh DIR PYTHON pip-arguments…       e.g. tools/fetch_wheels.sh .build/wheels-3.11 3.11 -r requirements.txt
#
# Runs on the host with the host's own pip settings (index, mirror, certificate). Only wheels are taken: nothing is compiled and no
# package's build code runs. A folder whose last fetch had the same arguments is left as it is.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$1 python=$2
shift 2
want="python $python: $*"
for argument in "$@"; do
    if [ -f "$argument" ]; then want="$want
$(cat "$argument")"; fi
done
if [ -f "$target/.fetched" ] && [ "$(cat "$target/.fetched")" = "$want" ]; then exit 0; fi
rm -rf "$target"
mkdir -p "$target"
machine=$(uname -m)
case "$machine" in arm64) machine=aarch64 ;; esac
platforms=()
for tag in manylinux_2_28 manylinux_2_17 manylinux2014 manylinux1; do platforms+=(--platform "${tag}_$machine"); done
"$root/tools/host_pip.sh" download --quiet --disable-pip-version-check --only-binary=:all: --implementation cp \
    --python-version "$python" "${platforms[@]}" -d "$target" "$@" 2>"$target/.pip.log" || {
    cat "$target/.pip.log" >&2
    exit 1
}
printf '%s\n' "$want" >"$target/.fetched"
