#!/usr/bin/env bash
# Build the image of every model, or of the named ones:
#
#   bash build_all_images.sh [NAME…] [--base-image IMAGE] [--jobs N] [--no-cache] [--wheels DIR]
#
#   NAME                a folder of models/ with a dockerfiles/NAME.Dockerfile, or "base" for the shared image alone
#   --base-image IMAGE  PyTorch image under all of them (default: pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime, and where that
#                       cannot be pulled a base made by tools/make_local_base.sh)
#   --jobs N            model images built at the same time (default: half the cores, at most 4)
#   --no-cache          build every layer anew
#   --wheels DIR        install the shared requirements from the wheels in DIR and build without network; chosen by itself, with
#                       wheels fetched on the host, where pip cannot reach its index from inside a build
#
# Makes skeleton-lab:base and skeleton-lab:NAME. Logs: .build/logs/NAME.log
# Exit codes: 0 all built, 1 an image failed, 2 wrong arguments, 3 no engine or no base image, 130 interrupted.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$root"
# shellcheck source=tools/builder.sh
. tools/builder.sh

official_base=pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime
local_bases="skeleton-lab-base:cu121 skeleton-lab-base:cpu"
logs=.build/logs
wheel_context=.build/image-wheels # named in .dockerignore and dockerfiles/base.Dockerfile

fail() { printf 'build_all_images: %s\n' "$2" >&2; exit "$1"; }
say() { printf '%s\n' "$*"; }
exists() { "$DOCKER" image inspect "$1" >/dev/null 2>&1; }
size() { "$DOCKER" image inspect --format '{{.Size}}' "$1"; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'; }

discover() { # every model folder, with or without a Dockerfile
    local file
    for file in models/*/model.toml; do
        if [ -f "$file" ]; then basename "$(dirname "$file")"; fi
    done
}

nearest() { # wrong word, known words… -> the closest known word, or nothing
    python3 -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], n=1, cutoff=0.5))' "$@" 2>/dev/null || true
}

check_name() {
    local close
    [ "$1" = base ] && return 0
    if [ ! -f "models/$1/model.toml" ]; then
        # shellcheck disable=SC2086  # one argument per model
        close=$(nearest "$1" base $models)
        fail 2 "no model is called '$1'${close:+; did you mean $close?} Models: ${models//$'\n'/ }"
    fi
    [ -f "dockerfiles/$1.Dockerfile" ] || fail 2 "models/$1 has no dockerfiles/$1.Dockerfile: add one (docs/docker.md shows how)"
}

names='' base_image='' jobs='' wheels=''
cache=()
models=$(discover)
while [ $# -gt 0 ]; do
    case "$1" in
        --base-image | --jobs | --wheels)
            [ $# -ge 2 ] || fail 2 "$1 needs a value"
            case "$1" in --base-image) base_image=$2 ;; --jobs) jobs=$2 ;; --wheels) wheels=$2 ;; esac
            shift
            ;;
        --no-cache) cache=(--no-cache) ;;
        -h | --help) sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        -*)
            close=$(nearest "$1" --base-image --jobs --no-cache --wheels --help)
            fail 2 "unknown flag $1${close:+; did you mean $close?}"
            ;;
        *) check_name "$1"; names="$names $1" ;;
    esac
    shift
done
if [ -z "$jobs" ]; then
    cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
    jobs=$((cores / 2 < 1 ? 1 : cores / 2 > 4 ? 4 : cores / 2))
fi
case "$jobs" in '' | *[!0-9]* | 0) fail 2 "--jobs is '$jobs', expected a whole number from 1" ;; esac
if [ -z "$names" ]; then
    names=$models
    for name in $names; do check_name "$name"; done
fi
if [ -n "$wheels" ]; then
    ls "$wheels"/*.whl >/dev/null 2>&1 || fail 2 "--wheels $wheels: no .whl files there; tools/fetch_wheels.sh fetches them"
fi

command -v docker >/dev/null || fail 3 "no docker command on PATH: install Docker, or run tools/ensure_engine.sh"
choose_builder
if ! problem=$("$DOCKER" version --format '{{.Server.Version}}' 2>&1 >/dev/null); then
    case "$problem" in
        *"permission denied"*) fail 3 "this user may not talk to the Docker engine: join the docker group and log in again" ;;
        *) fail 3 "no Docker engine answers: start Docker, or run tools/ensure_engine.sh" ;;
    esac
fi
mkdir -p "$logs"

choose_base() { # sets base_image
    local candidate
    [ -n "$base_image" ] && return 0
    base_image=$official_base
    exists "$base_image" && return 0
    say "pulling $official_base (log: $logs/pull.log)"
    "$DOCKER" pull "$official_base" >"$logs/pull.log" 2>&1 && return 0
    for candidate in $local_bases; do
        if exists "$candidate"; then
            base_image=$candidate
            say "cannot pull $official_base ($(tail -n 1 "$logs/pull.log"))"
            say "falling back to the local base $candidate"
            return 0
        fi
    done
    say "$(tail -n 1 "$logs/pull.log")" >&2
    fail 3 "cannot pull $official_base and there is no local base: connect to a registry, or run tools/make_local_base.sh cpu"
}

clean_up() {
    trap - EXIT
    rm -rf "$wheel_context"
}
interrupted() {
    trap '' INT TERM
    # shellcheck disable=SC2046  # one word per job
    kill $(jobs -p) 2>/dev/null || true
    wait
    clean_up
    printf 'build_all_images: interrupted\n' >&2
    exit 130
}
trap clean_up EXIT
trap interrupted INT TERM

network=()
choose_network() { # online, or wheels in the context and no network
    local python probe
    rm -rf "$wheel_context"
    if [ -z "$wheels" ]; then
        probe=$(sed -n 's/^\(einops==.*\)/\1/p' dockerfiles/requirements.txt)
        if "$DOCKER" run --rm --entrypoint python3 "$base_image" -m pip download --quiet --no-deps --retries 0 --timeout 8 \
            -d /tmp/probe "$probe" >"$logs/probe.log" 2>&1; then
            say "requirements: from pip's index, inside the build"
            return 0
        fi
        python=$("$DOCKER" run --rm --network none --entrypoint python3 "$base_image" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
            fail 3 "the base image $base_image does not run, or has no python3"
        wheels=.build/wheels-$python
        tools/fetch_wheels.sh "$wheels" "$python" --no-deps -r dockerfiles/requirements.txt ||
            fail 1 "pip reaches its index neither inside a build nor on this machine; --wheels DIR uses wheels from elsewhere"
    fi
    say "requirements: from the wheels in $wheels, builds without network"
    mkdir -p "$wheel_context"
    cp "$wheels"/*.whl "$wheel_context/"
    network=(--network none)
}

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml 2>/dev/null | head -n 1) || version=''

build() { # name, further arguments of docker build… -> one line; status file "ok|failed seconds bytes"
    local name=$1 started=$SECONDS seconds bytes
    shift
    if "$DOCKER" build ${cache[@]+"${cache[@]}"} ${network[@]+"${network[@]}"} --force-rm \
        --label "org.opencontainers.image.revision=$revision" --label "org.opencontainers.image.version=${version:-unknown}" \
        --label "org.skeleton-lab.base-image=$base_image" \
        -t "skeleton-lab:$name" -f "dockerfiles/$name.Dockerfile" "$@" . >"$logs/$name.log" 2>&1; then
        seconds=$((SECONDS - started)) bytes=$(size "skeleton-lab:$name")
        echo "ok $seconds $bytes" >"$logs/$name.status"
        printf '  %-28s built in %4d s, %s\n' "skeleton-lab:$name" "$seconds" "$(megabytes "$bytes")"
    else
        echo "failed $((SECONDS - started)) 0" >"$logs/$name.status"
        printf '  %-28s FAILED after %d s, log: %s\n' "skeleton-lab:$name" $((SECONDS - started)) "$logs/$name.log"
        tail -n 5 "$logs/$name.log" | sed 's/^/      | /'
    fi
}

choose_base
exists "$base_image" || say "the engine will pull $base_image"
choose_network
say "builder: $BUILDER ($DOCKER), base: $base_image, jobs: $jobs"
# shellcheck disable=SC2086  # one word per image
for name in base $names; do rm -f "$logs/$name.status"; done
build base --build-arg "BASE_IMAGE=$base_image"
todo=''
for name in $names; do
    case " base $todo " in *" $name "*) ;; *) todo="$todo $name" ;; esac
done
if grep -q '^ok' "$logs/base.status"; then
    for name in $todo; do
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 0.2; done
        build "$name" --build-arg COMMON_IMAGE=skeleton-lab:base &
    done
    wait
fi

failed=0
base_bytes=$(cut -d' ' -f3 "$logs/base.status")
printf '\n%-28s %-8s %6s %12s %14s\n' image result time size 'over the base'
for name in base $todo; do
    read -r result seconds bytes <"$logs/$name.status" 2>/dev/null || { result='not run' seconds=0 bytes=0; }
    over=''
    if [ "$result" = ok ]; then
        if [ "$name" != base ]; then over=$(megabytes $((bytes - base_bytes))); fi
        printf '%-28s %-8s %4d s %12s %14s\n' "skeleton-lab:$name" ok "$seconds" "$(megabytes "$bytes")" "$over"
    else
        failed=$((failed + 1))
        printf '%-28s %-8s %4d s   log: %s\n' "skeleton-lab:$name" "$result" "$seconds" "$logs/$name.log"
    fi
done
printf '%d s in all\n' "$SECONDS"
[ "$failed" = 0 ] || fail 1 "$failed of the images above were not built"
