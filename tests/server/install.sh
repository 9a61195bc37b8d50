#!/usr/bin/env bash
# Make a virtual environment with the LangGraph development server, on top of another: tests/server/install.sh DIR BASE
# It wants older versions of what the training tools want, so it has its own; all that it has not it takes from BASE.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
env=${1:?usage: install.sh DIR BASE}
base=${2:?usage: install.sh DIR BASE}
"$base/bin/python" -m venv "$env"
"$env/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --requirement "$here/requirements.txt"
where='import sysconfig; print(sysconfig.get_path("purelib"))'
{ "$base/bin/python" -c "$where"; cd "$here/../.." && pwd; } > "$("$env/bin/python" -c "$where")/base.pth"
