#!/usr/bin/env bash
# Run the tests of tests/versions/files.txt in an environment, or in several one after the other. The last lines say what failed.
# Usage: tests/versions/run.sh ENVIRONMENT…
set -uo pipefail
cd "$(dirname "$0")/../.."

failed=()
for environment in "$@"; do
    python=$environment/bin/python
    echo "$environment: $("$python" -c '
from importlib.metadata import version
names = ("langgraph", "langchain-core", "langchain", "pydantic", "pillow")
print(", ".join(f"{name} {version(name)}" for name in names))')"
    # No cache: the runs of several environments would overwrite it.
    # shellcheck disable=SC2046
    OMP_NUM_THREADS=1 "$python" -m pytest -q -p no:cacheprovider --numprocesses auto --dist worksteal \
        $(grep -v '^#' tests/versions/files.txt) || failed+=("$environment")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "tests failed in: ${failed[*]}"
    exit 1
fi
