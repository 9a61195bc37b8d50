#!/usr/bin/env bash
# Make a virtual environment with vLLM for CPU: tests/vllm/install.sh DIR   (minutes, about 2 GB)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
env=${1:?usage: install.sh DIR}
"${PYTHON:-python3}" -m venv "$env"
"$env/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --requirement "$here/requirements.txt"
site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$here/vllm_cpu_site.py" "$site/"
echo 'import vllm_cpu_site' > "$site/vllm_cpu_site.pth"
# vllm asks for the version of a distribution called vllm, and takes "cpu" in it for the platform; this one is called vllm-cpu.
version=$(sed -n 's/^vllm-cpu==//p' "$here/requirements.txt")
mkdir -p "$site/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$site/vllm-$version+cpu.dist-info/METADATA"
