#!/usr/bin/env bash
# Make the 2 MB image of the orchestrator's tests: a static busybox and nothing else.
#
#   tools/make_test_image.sh [TAG]        default: skeleton-lab-test:busybox; an image that exists is kept
#
# busybox comes from PATH, else from Debian's package (unpacked under .build/, not installed), else from a registry.
# Exit codes: 0 made or already there, 3 busybox cannot be had here.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tag=${1:-skeleton-lab-test:busybox}
docker image inspect "$tag" >/dev/null 2>&1 && exit 0

static_busybox() { # prints the path of a statically linked busybox
    local file folder=$root/.build/busybox
    for file in "$(command -v busybox || true)" "$folder/bin/busybox" "$folder/usr/bin/busybox"; do
        if [ -n "$file" ] && [ -x "$file" ] && ! grep -qa ld-linux "$file"; then echo "$file"; return 0; fi
    done
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mkdir -p "$folder"
    (cd "$folder" && apt-get download busybox-static >apt.log 2>&1 && dpkg-deb -x busybox-static_*.deb .) || return 1
    for file in "$folder/bin/busybox" "$folder/usr/bin/busybox"; do
        if [ -x "$file" ]; then echo "$file"; return 0; fi
    done
    return 1
}

if busybox=$(static_busybox); then
    work=$(mktemp -d "${TMPDIR:-/tmp}/skeleton-lab-busybox.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/bin" "$work/tmp" "$work/etc"
    chmod 1777 "$work/tmp" # a tmpfs takes the mode of the folder it covers
    cp "$busybox" "$work/bin/busybox"
    for applet in sh sleep cat echo true false id touch mkdir seq head tail dd wc grep ls test; do ln -s busybox "$work/bin/$applet"; done
    tar -C "$work" --numeric-owner -c . | docker import -c 'CMD ["sh"]' -c 'ENV PATH=/bin' - "$tag" >/dev/null
elif docker pull --quiet busybox:stable >/dev/null 2>&1; then
    docker tag busybox:stable "$tag"
else
    echo "make_test_image: no static busybox: neither on PATH, nor as a Debian package, nor from a registry" >&2
    exit 3
fi
