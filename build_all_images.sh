#!/usr/bin/env bash
# Build the image of every model, or of the named ones:
#
#   bash build_all_images.sh [NAME…] [--base-image IMAGE] [--jobs N] [--no-cache] [--wheels DIR] [--with-compiler]
#
#   NAME                a folder of models/ with a dockerfiles/NAME.Dockerfile, or "base" for the shared image alone; a hyphen
#                       may stand for an underscore
#   --base-image IMAGE  PyTorch image under all of them (default: pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime, and where that
#                       cannot be pulled a base made by tools/make_local_base.sh); NAME@sha256:… pins it. Named images go by
#                       default on the base of those that are there already, with a compiler where those have one
#   --jobs N            model images built at the same time (default: half the cores, at most 4)
#   --no-cache          build every layer anew
#   --wheels DIR        install the requirements from the wheels in DIR and build without network; chosen by itself, with wheels
#                       fetched on the host, where pip cannot reach its index from inside a build
#   --with-compiler     a C and C++ compiler in every image: torch.compile and Triton kernels need one at run
#                       time. Installed by apt, so the shared image is then built with network
#
# Makes skeleton-lab:base and skeleton-lab:NAME (SAL_IMAGE=other: other:base and other:NAME). Logs: .build/logs/NAME.log
# One build in a checkout at a time.
# Exit codes: 0 all built, 1 an image failed, 2 wrong arguments, 3 no engine or no base image, 73 another build runs in this
# checkout, 130 interrupted.
set -euo pipefail
caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$root"
# shellcheck source=tools/builder.sh
. tools/builder.sh

official_base=pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime
local_bases="skeleton-lab-base:cu121 skeleton-lab-base:cpu"
repository=${SAL_IMAGE:-skeleton-lab}
logs=.build/logs
wheel_context=.build/image-wheels # named in .dockerignore and the Dockerfiles

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
        if [ -n "$close" ]; then close="; did you mean $close?"; fi
        fail 2 "no model is called '$1'${close:-.} Models: ${models//$'\n'/ }"
    fi
    [ -f "dockerfiles/$1.Dockerfile" ] || fail 2 "models/$1 has no dockerfiles/$1.Dockerfile: add one (docs/docker.md shows how)"
}

names='' base_image='' jobs='' wheels='' with_compiler=''
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
        --with-compiler) with_compiler=1 ;;
        -h | --help) sed -n '2,24s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        -*)
            close=$(nearest "$1" --base-image --jobs --no-cache --wheels --with-compiler --help)
            fail 2 "unknown flag $1${close:+; did you mean $close?}"
            ;;
        *)
            name=${1%/} # a / is what tab completion adds
            if [ -f "models/${name//-/_}/model.toml" ]; then name=${name//-/_}; fi # msf-gzssar
            check_name "$name"
            names="$names $name"
            ;;
    esac
    shift
done
if [ -z "$jobs" ]; then
    cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
    jobs=$((cores / 2 < 1 ? 1 : cores / 2 > 4 ? 4 : cores / 2))
fi
case "$jobs" in '' | *[!0-9]* | 0*) fail 2 "--jobs is '$jobs', expected a whole number from 1" ;; esac
some=$names # the named ones; empty for all
if [ -z "$names" ]; then
    names=$models
    for name in $names; do check_name "$name"; done
fi
if [ -n "$wheels" ]; then
    case "$wheels" in /*) ;; *) wheels=$caller/$wheels ;; esac
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

# The wheels in the context, the logs and the tags are one build's. The lock goes with its last process, however it ends.
if command -v flock >/dev/null; then # not on macOS
    exec 9>.build/build.lock
    flock -n 9 || fail 73 "another build runs in this checkout: wait for it or end it; or use another checkout, with SAL_IMAGE=other"
fi

label_of() { # image, label -> its value; empty where either is missing
    local value
    value=$("$DOCKER" image inspect --format "{{index .Config.Labels \"$2\"}}" "$1" 2>/dev/null) || return 0
    if [ "$value" != '<no value>' ]; then printf '%s' "$value"; fi
}

keep_choices() { # a few named images are built as their neighbours were, or the images of one set would differ in what is below
    local shared=$repository:base before
    [ -n "$some" ] && exists "$shared" || return 0
    before=$(label_of "$shared" org.skeleton-lab.base-image)
    if [ -z "$base_image" ] && [ -n "$before" ]; then
        base_image=$before
        say "on $base_image, as $shared is; --base-image takes another"
    fi
    if [ -z "$with_compiler" ] && [ "$(label_of "$shared" org.skeleton-lab.compiler)" = 1 ]; then
        with_compiler=1
        say "with a compiler, as $shared has one; a build of all images leaves it out"
    fi
}

choose_base() { # sets base_image, which is on the engine afterwards
    local candidate wanted=${base_image:-$official_base} problem
    if ! exists "$wanted"; then
        say "pulling $wanted (log: $logs/pull.log)"
        if ! "$DOCKER" pull "$wanted" >"$logs/pull.log" 2>&1; then
            problem=$(tail -n 1 "$logs/pull.log")
            [ -z "$base_image" ] || fail 3 "cannot pull $wanted: $problem"
            wanted=''
            for candidate in $local_bases; do
                if [ -z "$wanted" ] && exists "$candidate"; then wanted=$candidate; fi
            done
            if [ -z "$wanted" ]; then
                say "$problem" >&2
                fail 3 "cannot pull $official_base and there is no local base: connect to a registry, or run tools/make_local_base.sh cpu"
            fi
            say "cannot pull $official_base ($problem)"
            say "falling back to the local base $wanted"
        fi
    fi
    base_image=$wanted
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

holds_packages() { grep -q '==' "$1" 2>/dev/null; } # a lock -> true unless it is empty
lock_of() { if [ "$1" = base ]; then echo dockerfiles/requirements.txt; else echo "models/$1/requirements.txt"; fi; }

applicable() { # a lock -> its lines for the Python and the platform of the base image: pip on the host would go by the host's
    "$DOCKER" run --rm --interactive --network none --entrypoint python3 "$base_image" -c '
import re, sys
from pip._vendor.packaging.markers import Marker
for line in re.sub(r"\\\n\s*", " ", sys.stdin.read()).splitlines():
    marker = re.search(r";(.*?)( --hash|$)", line)
    if "==" in line and not line.lstrip().startswith("#") and (marker is None or Marker(marker[1]).evaluate()):
        print(line.replace(";" + marker[1], "") if marker else line)
' <"$1"
}

network=()
choose_network() { # online, or wheels in the context and no network
    local python probe name from given=$wheels
    rm -rf "$wheel_context"
    if [ -z "$wheels" ]; then
        probe=$(sed -n 's/^\([^ #]*==[^ ;]*\).*/\1/p' dockerfiles/requirements.txt | head -n 1)
        if "$DOCKER" run --rm --entrypoint python3 "$base_image" -m pip download --quiet --no-deps --retries 0 --timeout 8 \
            -d /tmp/probe "$probe" >"$logs/probe.log" 2>&1; then
            say "requirements: from pip's index, inside the build"
            return 0
        fi
        python=$("$DOCKER" run --rm --network none --entrypoint python3 "$base_image" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
            fail 3 "the base image $base_image does not run, or has no python3"
        wheels=.build/wheels-$python
    fi
    say "requirements: from the wheels in $wheels, builds without network"
    for name in base $todo; do
        holds_packages "$(lock_of "$name")" || continue
        if [ -z "$given" ]; then
            mkdir -p "$wheels"
            applicable "$(lock_of "$name")" >"$wheels/$name.txt" || fail 3 "the base image $base_image has no pip"
            tools/fetch_wheels.sh "$wheels/$name" "$python" --no-deps --require-hashes -r "$wheels/$name.txt" ||
                fail 1 "pip reaches its index neither inside a build nor on this machine; --wheels DIR uses wheels from elsewhere"
        fi
        mkdir -p "$wheel_context/$name"
        from=${given:-$wheels/$name}
        cp "$from"/*.whl "$wheel_context/$name/"
    done
    network=(--network none)
}

labels=()
describe() { # sets labels: those that only this script knows
    local revision version name=${base_image%@*} digest='' known
    revision=unknown
    if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$root" ]; then # not that of a repository around this folder
        revision=$(git rev-parse HEAD)
        if [ -n "$(git status --porcelain 2>/dev/null)" ]; then revision=$revision-dirty; fi
    fi
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml 2>/dev/null | head -n 1) || version=''
    if [ "$name" != "$base_image" ]; then
        digest=${base_image##*@}
    else # an image may have been pulled by other names too: take the digest of the one that was asked for
        case "${name##*/}" in *:*) name=${name%:*} ;; esac
        name=${name#docker.io/}
        for known in $("$DOCKER" image inspect --format '{{join .RepoDigests " "}}' "$base_image" 2>/dev/null); do
            if [ "${known%@*}" = "${name#library/}" ]; then digest=${known##*@}; fi
        done
    fi
    labels=(
        --label "org.opencontainers.image.revision=$revision"
        --label "org.opencontainers.image.version=${version:-unknown}"
        --label "org.skeleton-lab.base-image=$base_image"
        --label "org.opencontainers.image.base.name=${base_image%@*}"
        --label "org.opencontainers.image.base.digest=$digest" # empty for a local base: only a registry gives a digest
    )
}

run_build() { # log, arguments of docker build… -> its exit code; ends with this process
    local log=$1 client
    shift
    "$DOCKER" build ${cache[@]+"${cache[@]}"} --force-rm "$@" . >"$log" 2>&1 &
    client=$!
    # shellcheck disable=SC2064  # expand now: the variable is local
    trap "kill $client 2>/dev/null; wait $client; exit 130" INT TERM
    wait "$client"
}

build() { # name, further arguments of docker build… -> one line; status file "ok|failed seconds bytes"
    local name=$1 started=$SECONDS seconds bytes
    shift
    if run_build "$logs/$name.log" "${labels[@]}" \
        -t "$repository:$name" -f "dockerfiles/$name.Dockerfile" "$@"; then
        seconds=$((SECONDS - started)) bytes=$(size "$repository:$name")
        echo "ok $seconds $bytes" >"$logs/$name.status"
        printf '  %-28s built in %4d s, %s\n' "$repository:$name" "$seconds" "$(megabytes "$bytes")"
    else
        echo "failed $((SECONDS - started)) 0" >"$logs/$name.status"
        printf '  %-28s FAILED after %d s, log: %s\n' "$repository:$name" $((SECONDS - started)) "$logs/$name.log"
        tail -n 5 "$logs/$name.log" | sed 's/^/      | /'
    fi
}

base_arguments() { # sets base_build: the shared image may lack what only apt brings, and then this one build has network
    base_build=(--build-arg "BASE_IMAGE=$base_image" --build-arg "WITH_COMPILER=$with_compiler")
    [ ${#network[@]} -gt 0 ] || return 0
    if [ -n "$with_compiler" ] || ! "$DOCKER" run --rm --network none --entrypoint sh "$base_image" -c 'command -v tini' >/dev/null; then
        say "the shared image needs apt: built with network"
    else
        base_build+=("${network[@]}")
    fi
}

todo=''
for name in $names; do
    case " base $todo " in *" $name "*) ;; *) todo="$todo $name" ;; esac
done
keep_choices
choose_base
choose_network
describe
say "builder: $BUILDER ($DOCKER), base: $base_image, jobs: $jobs"
# shellcheck disable=SC2086  # one word per image
for name in base $names; do rm -f "$logs/$name.status"; done
base_arguments
build base "${base_build[@]}" &
wait $!
if grep -q '^ok' "$logs/base.status"; then
    for name in $todo; do
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 0.2; done
        build "$name" ${network[@]+"${network[@]}"} --build-arg "COMMON_IMAGE=$repository:base" &
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
        printf '%-28s %-8s %4d s %12s %14s\n' "$repository:$name" ok "$seconds" "$(megabytes "$bytes")" "$over"
    else
        failed=$((failed + 1))
        printf '%-28s %-8s %4d s   log: %s\n' "$repository:$name" "$result" "$seconds" "$logs/$name.log"
    fi
done
printf '%d s in all\n' "$SECONDS"
[ "$failed" = 0 ] || fail 1 "$failed of the images above were not built"
