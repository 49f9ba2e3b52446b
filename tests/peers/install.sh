#!/usr/bin/env bash
# Puts verl, OpenRLHF and verifiers into an environment of their own (default .peers), so that
# tests/slow/test_integrations.py can run our adapters under these packages' own loading code.
# torch and transformers are borrowed from the environment of PYTHON (default .venv/bin/python).
set -euo pipefail
cd "$(dirname "$0")/../.."
TARGET=${1:-.peers}
PYTHON=${PYTHON:-.venv/bin/python}
"$PYTHON" -m venv "$TARGET"
"$TARGET/bin/python" - "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" <<'END'
import pathlib, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "borrowed.pth").write_text(sys.argv[1] + "\n")
END
pip() { "$TARGET/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
# The trainers pin GPU packages; their reward code needs none of them.
pip --no-deps verl==0.9.1 openrlhf==0.11.2
pip ray==2.55.0 tensordict omegaconf hydra-core codetiming torchdata orjson pylatexenc
pip verifiers==0.4.0
