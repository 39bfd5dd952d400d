# Sourced by the scripts beside it. `need server,dev` makes .venv and fills it with those extras, when it is missing or
# when pyproject.toml or constraints.txt changed since. pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL,
# PIP_FIND_LINKS ..) are honoured; PYTHON names the interpreter that makes the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

say() { printf 'crosslook: %s\n' "$*" >&2; }

# The first interpreter that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "Python 3.11 or newer is needed, and none was found. Set PYTHON to one."
  return 1
}

make_venv() {
  local python
  python=$(find_python)
  say "making .venv with $("$python" --version)"
  if ! "$python" -m venv .venv; then
    rm -rf .venv
    say "'$python -m venv' failed. On Debian and Ubuntu: apt install python3-venv"
    return 1
  fi
}

# What a filled environment was filled from: one line an extra, each with the hash of the files that decide.
need() {
  local extras=$1 extra wanted='' hash stamp=.venv/crosslook-filled started
  .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; make_venv; }
  hash=$(cat pyproject.toml constraints.txt | .venv/bin/python -c \
    'import hashlib, os, sys; print(hashlib.sha256(sys.stdin.buffer.read() + os.getcwd().encode()).hexdigest()[:16])')
  for extra in ${extras//,/ }; do
    grep -qsx "$extra $hash" "$stamp" || wanted=${wanted:+$wanted,}$extra
  done
  if [[ -n $wanted ]]; then
    started=$SECONDS
    say "installing into .venv: crosslook[$wanted] and what it needs, torch above all (network needed, once; some minutes)"
    # Before the stamp, so that an install that breaks off is done again.
    .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$wanted]"
    for extra in ${wanted//,/ }; do
      { grep -sv "^$extra " "$stamp" || true; echo "$extra $hash"; } >"$stamp.new"
      mv "$stamp.new" "$stamp"
    done
    # The wheel holds the client alone, so the server's command is no entry point but this launcher.
    printf '#!/bin/sh\nexec "%s/.venv/bin/python" -m app.cli "$@"\n' "$root" >.venv/bin/crosslook-server
    chmod +x .venv/bin/crosslook-server
    say "installed in $((SECONDS - started)) s"
  fi
}
