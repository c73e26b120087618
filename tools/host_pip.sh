#!/usr/bin/env bash
# Run pip of this machine with this machine's own pip settings: of python3, or of a small environment under .build/ where python3
# has none (Debian without python3-pip).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if python3 -m pip --version >/dev/null 2>&1; then exec python3 -m pip "$@"; fi
[ -x "$root/.venv/bin/pip" ] && exec "$root/.venv/bin/pip" "$@"
[ -x "$root/.build/pip/bin/pip" ] || python3 -m venv "$root/.build/pip" || {
    echo "host_pip: python3 has neither pip nor venv; on Debian: apt-get install python3-venv" >&2
    exit 3
}
exec "$root/.build/pip/bin/pip" "$@"
