#!/usr/bin/env bash
# Measures the training step and the service on a GPU, without Ray and without a network (docs/benchmarks.md).
#
#   bash benchmarks/gpu.sh [--minutes 8] [--json FILE] [--only REGEX] [--list] [--help]
#   bash benchmarks/gpu.sh --wheels FOLDER [PYTHON_VERSION]
#
# The machine needs this checkout, and a Python with torch and transformers (PYTHON, by default python3). If it lacks one
# of the packages below, the first command installs the wheels of the folder WHEELS into a temporary folder. The second
# command downloads them (60 MB) on a machine with a network, for its own version of Python or for PYTHON_VERSION,
# such as 3.12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
# Packages that the benchmark needs in addition to torch, transformers and their own requirements.
packages=(annotated-types markdown-it-py mdurl pyarrow pydantic pydantic-core pygments rich typing-extensions
  typing-inspection)

if [[ ${1-} == --wheels ]]; then
  folder=${2:?name a folder: bash benchmarks/gpu.sh --wheels FOLDER [PYTHON_VERSION]}
  pinned=()
  for package in "${packages[@]}"; do
    pinned+=("$(grep -oE "^$package==[^ ;]+" requirements.lock)")
  done
  target=()
  if [[ -n ${3-} ]]; then
    target=(--python-version "$3" --implementation cp)
    for tag in manylinux_2_28 manylinux_2_17 manylinux2014; do
      target+=(--platform "${tag}_x86_64")
    done
  fi
  exec "$python" -m pip download --no-deps --only-binary=:all: --dest "$folder" "${target[@]}" "${pinned[@]}"
fi

export PYTHONPATH="platform:.${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if [[ -n ${WHEELS-} ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="$site:$PYTHONPATH"
fi
missing=
[[ " $* " == *" --help "* || " $* " == *" -h "* || " $* " == *" --list "* ]] || missing=$("$python" - "${packages[@]}" <<'PYTHON'
import importlib.metadata, sys

installed = {distribution.metadata["Name"].lower().replace("_", "-") for distribution in importlib.metadata.distributions()}
print(*(name for name in ["torch", "transformers", *sys.argv[1:]] if name not in installed))
PYTHON
)
if [[ -n $missing ]]; then
  echo "benchmarks/gpu.sh: $missing: not installed; set WHEELS to a folder from 'benchmarks/gpu.sh --wheels FOLDER'" >&2
  exit 2
fi
"$python" -m benchmarks.gpu "$@"
