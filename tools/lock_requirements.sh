#!/usr/bin/env bash
# Write every lock of the images' packages from what is asked for: each requirements.in and local_base_*.in gets a .txt beside it
# with exact versions and the hashes of their files.
#
#   bash tools/lock_requirements.sh [--upgrade]      versions that still fit are kept; --upgrade takes the newest that fit
#
# torch is left out of what goes on top of a base image: it is the base's. A model's lock holds only what
# dockerfiles/requirements.txt has not, and agrees with it. Needs an index (uv's own settings: UV_INDEX_URL and so on); uv is
# used from PATH, or fetched by pip.
# Exit codes: 0 written, 1 no versions fit or the index does not answer, 2 wrong arguments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "$#/${1:-}" in
    0/) ;;
    1/--upgrade) ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
upgrade=("$@")
shared=dockerfiles/requirements
mkdir -p .build

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    uv=.build/uv/bin/uv
    [ -x "$uv" ] || tools/host_pip.sh install --quiet --disable-pip-version-check --only-binary=:all: --target .build/uv uv
fi

lock() { # NAME.in without its suffix, further arguments of uv pip compile
    local name=$1
    shift
    echo "$name.txt"
    "$uv" pip compile --quiet --generate-hashes --custom-compile-command "bash tools/lock_requirements.sh" \
        ${upgrade[@]+"${upgrade[@]}"} "$@" "$name.in" -o "$name.txt"
}

without_torch=.build/without-torch.txt # an override that is never true: nothing brings torch or what torch needs
echo "torch; python_version < '3'" >"$without_torch"
lock "$shared" --universal --python-version 3.10 --override "$without_torch"

in_base=()
while read -r name; do in_base+=(--no-emit-package "$name"); done < <(sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' "$shared.txt")
for file in models/*/requirements.in; do
    if [ -f "$file" ]; then
        lock "${file%.in}" --universal --python-version 3.10 --override "$without_torch" --constraint "$shared.txt" "${in_base[@]}"
    fi
done

for file in dockerfiles/local_base_*.in; do # one Python, one platform: that of the local base
    lock "${file%.in}" --python-version 3.11 --python-platform linux
done
