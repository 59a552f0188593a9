#!/usr/bin/env bash
# What comes from the system and not from PyPI or npm: a browser for the explorer's tests, the sqlite3 shell, Node.js.
# As root the Debian packages that are missing are installed; otherwise they are asked for by name.
set -euo pipefail

missing=()
command -v sqlite3 >/dev/null || missing+=(sqlite3)
if [ "${1:-}" = "--browser" ]; then
    command -v chromium >/dev/null || missing+=(chromium)
    # The reverse proxy that the explorer is tried behind.
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
fi

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing from Debian: ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "setup: these programs are missing: ${missing[*]}" >&2
        echo "       install them and run this again, for example: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

if ! command -v node >/dev/null || ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)'; then
    echo "setup: Node.js 20 or newer is needed to build the explorer; found: $(node --version 2>/dev/null || echo none)" >&2
    echo "       install it from your distribution or nodejs.org, then run this again" >&2
    exit 1
fi
