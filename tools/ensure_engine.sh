#!/usr/bin/env bash
# Make a Docker engine answer, or say in one line why none can.
#
#   tools/ensure_engine.sh            exit 0: an engine answers; exit 3: none can, the last line says why
#
# Does nothing where one already answers. As root on Debian or Ubuntu without an engine it installs docker.io and starts dockerd
# without systemd, so it also works inside a bare virtual machine or a CI worker.
#
#   SAL_ENGINE_DIR     where the pid file and the log of an engine started here go (default: ${TMPDIR:-/tmp}/skeleton-lab-engine)
#   SAL_DOCKERD_ARGS   further arguments of dockerd, separated by blanks
set -euo pipefail

run_dir=${SAL_ENGINE_DIR:-${TMPDIR:-/tmp}/skeleton-lab-engine}

log() { printf 'ensure_engine: %s\n' "$*" >&2; }
give_up() { log "$*"; exit 3; }
within() { if command -v timeout >/dev/null; then timeout "$@"; else shift; "$@"; fi; } # seconds, command…; macOS has no timeout
answers() { command -v docker >/dev/null && within 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

install_engine() {
    command -v apt-get >/dev/null || give_up "no dockerd and no apt-get: install Docker, see docs/docker.md"
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    apt-get update -qq >/dev/null || log "apt-get update failed, trying with the package lists at hand"
    apt-get install -y -qq --no-install-recommends docker.io iptables ca-certificates debootstrap >/dev/null \
        || give_up "apt-get install docker.io failed: is a package mirror reachable?"
}

# A killed engine leaves pid files, and a recycled or zombie pid makes dockerd refuse to start ("pid file found").
remove_stale_pid_files() {
    local file pid state comm
    for file in "$run_dir/dockerd.pid" /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        state=$(awk '/^State:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
        comm=$(cat "/proc/$pid/comm" 2>/dev/null || true)
        case "$state/$comm" in
            [!ZX]/dockerd | [!ZX]/containerd) ;;
            *) log "removing the stale pid file $file"; rm -f "$file" ;;
        esac
    done
}

if answers; then log "an engine already answers"; exit 0; fi
[ "$(id -u)" = 0 ] || give_up "no engine answers and this is not root: start Docker, or join the docker group and log in again"
case "${DOCKER_HOST:-}" in
    "" | unix:*) ;;
    *) give_up "DOCKER_HOST=$DOCKER_HOST does not answer: start that engine, or unset DOCKER_HOST to use one of this machine" ;;
esac
if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then install_engine; fi
if ! grep -qE '^cgroup2? .*(memory|cgroup2)' /proc/mounts && command -v cgroupfs-mount >/dev/null; then cgroupfs-mount || true; fi
mkdir -p "$run_dir"
remove_stale_pid_files

extra=()
[ -z "${SAL_DOCKERD_ARGS:-}" ] || read -r -a extra <<<"$SAL_DOCKERD_ARGS"
for attempt in 1 2; do
    setsid nohup dockerd --pidfile "$run_dir/dockerd.pid" ${extra[@]+"${extra[@]}"} >"$run_dir/dockerd.log" 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 150); do
        if answers; then
            log "engine $(docker version --format '{{.Server.Version}}') is up (driver $(docker info --format '{{.Driver}}')), log: $run_dir/dockerd.log"
            exit 0
        fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    log "attempt $attempt failed: $(tail -n1 "$run_dir/dockerd.log")"
    sleep 1
done
exit 3
