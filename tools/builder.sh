# Choose the docker client and builder that work here. Sourced, not run; sets and exports:
#   DOCKER            the client to call
#   DOCKER_BUILDKIT   1 (BuildKit) or 0 (legacy builder)
#   BUILDER           one word for people: "buildkit" or "legacy"
#
# A client from version 23 on needs its buildx plug-in for BuildKit and stops without it; older clients carry BuildKit themselves.
# Debian installs such an older client at /usr/bin/docker, which may sit behind a newer one on PATH.
# shellcheck shell=bash

_carries_buildkit() { # client -> true when it can drive BuildKit
    local version
    "$1" buildx version >/dev/null 2>&1 && return 0
    version=$("$1" version --format '{{.Client.Version}}' 2>/dev/null) || version=$("$1" --version | sed 's/^[^0-9]*//')
    [ "${version%%.*}" -lt 23 ] 2>/dev/null
}

choose_builder() {
    local client
    DOCKER=docker DOCKER_BUILDKIT=0 BUILDER=legacy
    if [ "${SAL_BUILDER:-}" != legacy ]; then
        for client in docker /usr/bin/docker; do
            if command -v "$client" >/dev/null && _carries_buildkit "$client"; then
                DOCKER=$client DOCKER_BUILDKIT=1 BUILDER=buildkit
                break
            fi
        done
    fi
    export DOCKER DOCKER_BUILDKIT BUILDER BUILDKIT_PROGRESS=plain
}
