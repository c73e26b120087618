#!/usr/bin/env bash
# Make a base image on this machine without any image registry: Debian, Python, PyTorch from its ordinary wheels.
#
#   tools/make_local_base.sh cpu   [--tag skeleton-lab-base:cpu]   [--force]    torch 2.13.0 for CPU, about 1.1 GB
#   tools/make_local_base.sh cu121 [--tag skeleton-lab-base:cu121] [--force]    torch 2.3.1 for CUDA 12.1, about 5.5 GB
#
# Then: bash build_all_images.sh --base-image skeleton-lab-base:cpu
#
# Needs: a Docker engine (where none answers, tools/ensure_engine.sh brings one up), root and debootstrap for the root file
# system, pip on the host for the wheels. Wheels are fetched with the host's own pip settings, checked against
# dockerfiles/local_base_*.txt and kept under .build/; the image itself is built with no network.
# An image that exists is kept. --force makes it anew, its root file system too, with the security updates of that day. It is
# meant for CI and for machines without a registry; elsewhere the default base (the official PyTorch image) is the better one.
#
# Exit codes: 0 made or already there, 2 wrong arguments, 3 a tool or the engine is missing, 1 a step failed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/builder.sh
. "$root/tools/builder.sh"

usage() { sed -n '4,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
log() { printf 'make_local_base: %s\n' "$*" >&2; }

rootfs_tag=skeleton-lab-rootfs:bookworm
python_version=3.11 # of Debian bookworm
variant='' tag='' force=''
while [ $# -gt 0 ]; do
    case "$1" in
        cpu | cu121)
            if [ -n "$variant" ]; then log "one base at a time: $variant or $1"; usage; fi
            variant=$1
            ;;
        -h | --help) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        --tag) [ $# -ge 2 ] || usage; tag=$2; shift ;;
        --force) force=1 ;;
        *) log "unknown argument: $1"; usage ;;
    esac
    shift
done
case "$variant" in cpu | cu121) ;; *) usage ;; esac
cpu_torch=torch==2.13.0 # the CPU wheel has no entry in the lock: dockerfiles/local_base_cpu.in says why
lock=$root/dockerfiles/local_base_$variant.txt
tag=${tag:-skeleton-lab-base:$variant}

choose_builder
if ! "$DOCKER" version --format '{{.Server.Version}}' >/dev/null 2>&1; then
    "$root/tools/ensure_engine.sh" || exit 3
    choose_builder # it may have brought the client too
fi
if [ -z "$force" ] && there=$("$DOCKER" image inspect --format '{{index .Config.Labels "org.skeleton-lab.base"}}' "$tag" 2>/dev/null); then
    if [ -n "$there" ] && [ "$there" != "$variant" ]; then log "$tag exists and is no $variant base: give another --tag, or --force"; exit 1; fi
    log "$tag exists (--force makes it anew)"
    exit 0
fi

add_security_updates() { # folder: from beside the archive's main suite, whatever mirror debootstrap took that from
    local sources=$1/etc/apt/sources.list
    sed -i 's#^deb \(.*\)/debian/\{0,1\} bookworm main$#&\ndeb \1/debian-security bookworm-security main#' "$sources"
    if grep -q bookworm-security "$sources" && {
        chroot "$1" apt-get update -qq && DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get upgrade -y -qq
    } >>"$root/.build/logs/rootfs.log" 2>&1; then
        log "security updates are in, ${SECONDS} s since the start"
    else
        log "without security updates: their suite does not answer or install, log: .build/logs/rootfs.log"
    fi
}

make_rootfs() {
    local work made
    if ! command -v debootstrap >/dev/null; then
        log "debootstrap is missing: apt-get install debootstrap"
        exit 3
    fi
    [ "$(id -u)" = 0 ] || { log "debootstrap needs root: run this as root (sudo)"; exit 3; }
    work=$(mktemp -d "${TMPDIR:-/tmp}/skeleton-lab-rootfs.XXXXXX")
    # shellcheck disable=SC2064  # expand now: the variable is local
    trap "rm -rf --one-file-system '$work'" EXIT
    if ! debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,tini bookworm "$work" >"$root/.build/logs/rootfs.log" 2>&1; then
        tail -n 5 "$root/.build/logs/rootfs.log" >&2
        log "debootstrap failed, log: .build/logs/rootfs.log"
        exit 1
    fi
    add_security_updates "$work"
    find "$work" -xdev -perm /6000 -type f -exec chmod a-s {} +
    tar -C "$work" --numeric-owner --exclude='./dev/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
        --exclude='./usr/share/locale/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
        --exclude=./etc/resolv.conf --exclude=./etc/hostname -c . |
        "$DOCKER" import -c 'ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$rootfs_tag" >/dev/null
    rm -rf --one-file-system "$work"
    made=$("$DOCKER" image inspect --format '{{.Size}}' "$rootfs_tag")
    log "$rootfs_tag made: $((made / 1000000)) MB, ${SECONDS} s since the start"
}

mkdir -p "$root/.build/logs"
context=$root/.build/base-$variant
wheels=$context/wheels

# Debian's packages are unpacked (one core) while pip fetches (the other one, and the network).
rootfs_job=''
if [ -n "$force" ] || ! "$DOCKER" image inspect "$rootfs_tag" >/dev/null 2>&1; then
    (make_rootfs) &
    rootfs_job=$!
    # Without this an interrupt would leave debootstrap running and its folder behind.
    trap 'kill "$rootfs_job" 2>/dev/null || true; wait "$rootfs_job" 2>/dev/null || true' EXIT
fi
if [ "$variant" = cpu ]; then
    # Look before the gigabytes: the default wheel of x86-64 Linux is a CUDA one with 2.5 GB of libraries behind it.
    "$root/tools/fetch_wheels.sh" "$context/torch" "$python_version" --no-deps "$cpu_torch"
    if python3 - "$context"/torch/*.whl <<'PY'; then
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    text = wheel.read(next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))).decode()
needs = [line.split()[1] for line in text.split("\n\n")[0].splitlines() if line.startswith("Requires-Dist: ")]
sys.exit(0 if any(name.startswith(("nvidia", "cuda", "triton")) for name in needs) else 1)
PY
        log "pip found a CUDA wheel of $cpu_torch: point pip at PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS) and repeat"
        exit 1
    fi
fi
"$root/tools/fetch_wheels.sh" "$wheels" "$python_version" --no-deps --require-hashes -r "$lock"
if [ "$variant" = cpu ]; then cp "$context"/torch/*.whl "$wheels/"; fi
log "wheels: $(du -sm "$wheels" | cut -f1) MB, ${SECONDS} s since the start"
if [ -n "$rootfs_job" ]; then
    wait "$rootfs_job" || exit $?
    trap - EXIT
fi

cp "$lock" "$context/requirements.txt"
pip="/opt/venv/bin/pip install --no-index --find-links /wheels --no-cache-dir --no-deps"
install="$pip --require-hashes -r /wheels/requirements.txt"
if [ "$variant" = cpu ]; then install="$install && $pip $cpu_torch"; fi
cat >"$context/Dockerfile" <<DOCKERFILE
FROM $rootfs_tag AS install
COPY requirements.txt wheels /wheels/
RUN python3 -m venv /opt/venv && $install && /opt/venv/bin/pip check
FROM $rootfs_tag
LABEL org.opencontainers.image.title="Skeleton Action Lab local base ($variant)" org.skeleton-lab.base="$variant"
COPY --from=install /opt/venv /opt/venv
CMD ["python3"]
DOCKERFILE
printf '*\n!requirements.txt\n!wheels\nwheels/.*\n' >"$context/.dockerignore"
if ! "$DOCKER" build --network none --force-rm -t "$tag" "$context" >"$root/.build/logs/base-$variant.log" 2>&1; then
    tail -n 15 "$root/.build/logs/base-$variant.log" >&2
    log "building $tag failed, log: .build/logs/base-$variant.log"
    exit 1
fi
made=$("$DOCKER" image inspect --format '{{.Size}}' "$tag")
log "$tag made: $((made / 1000000)) MB in ${SECONDS} s ($BUILDER)"
