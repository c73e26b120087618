#!/bin/sh
# Inside a build: install the packages of the lock beside this script into a folder of their own.
#
#   sh install_requirements.sh TARGET
#
# Beside this script: requirements.txt as tools/lock_requirements.sh writes it and, for a build without network, wheels. A lock
# without packages makes an empty folder. --require-hashes: what is installed is what was locked, wherever it comes from.
# --no-deps: pip can never replace the torch of the base image. Byte code is kept, or every start of a container would compile
# it again.
set -eu
target=$1
here=$(dirname "$0")
mkdir -p "$target"
if grep -q '==' "$here/requirements.txt"; then
    set --
    if ls "$here"/*.whl >/dev/null 2>&1; then set -- --no-index --find-links "$here"; fi
    PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --disable-pip-version-check --no-cache-dir \
        --require-hashes --no-deps --only-binary=:all: "$@" --target "$target" -r "$here/requirements.txt"
    rm -rf "${target:?}/bin"
    python3 -m compileall -q --invalidation-mode unchecked-hash "$target"
fi
chmod -R a+rX,go-w "$target"
