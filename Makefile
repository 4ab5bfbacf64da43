# Every target sets up what it needs. Needs GNU make and Python 3.11; honours pip's own variables
# (PIP_INDEX_URL, PIP_FIND_LINKS, ...) and WHEELHOUSE=folder, a folder of wheels to install from.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
PIP_FLAGS := $(if $(WHEELHOUSE),--no-index --find-links "$(abspath $(WHEELHOUSE))")
OUT ?= demo
PANORAMA ?=
MINUTES ?= 120

.PHONY: demo test test-matrix test-window lint bench bench-environment zip data train evaluate clean

demo: $(VENV)/.ready
	$(PY) benchmarks/demo.py --out "$(OUT)" $(if $(PANORAMA),--panorama "$(PANORAMA)")

test: $(VENV)/.ready
	$(PY) -m pytest tests

# The host's tests on the oldest and the newest Blender; the worker runs in the main environment.
test-matrix: $(VENV)-4.2/.ready $(VENV)-5.0/.ready $(VENV)/.ready
	OMNIX_TEST_PYTHON="$(abspath $(PY))" $(VENV)-4.2/bin/python -m pytest tests/test_host_*.py tests/test_build_*.py
	OMNIX_TEST_PYTHON="$(abspath $(PY))" $(VENV)-5.0/bin/python -m pytest tests/test_host_*.py tests/test_build_*.py

# The panel in a real Blender window, on a virtual screen; needs root on Debian.
test-window: $(VENV)/.ready
	tests/window/run.sh

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/.ready
	$(PY) benchmarks/bench.py

bench-environment: $(VENV)/.ready
	$(PY) benchmarks/environment.py

# SLIM=1 leaves the wheels out: the worker then uses an external Python set in the preferences.
zip: $(VENV)/.ready
	$(PY) wheels/package.py $(if $(SLIM),--slim) $(if $(WHEELHOUSE),--wheelhouse "$(abspath $(WHEELHOUSE))")

data: $(VENV)/.ready
	$(PY) -m training.generate --split train --first 0 --count 1000 --jobs 2
	$(PY) -m training.generate --split val --first 0 --count 40 --jobs 2

# Twice MINUTES: at half the size, where a sample costs least, then from there at full size.
train: $(VENV)/.ready
	$(PY) -m training.train --out build/train/half --minutes $(MINUTES) --height 64 --batch 6
	$(PY) -m training.export build/train/half --to build/train/half/weights
	$(PY) -m training.train --out build/train/full --minutes $(MINUTES) --height 128 --batch 4 \
	    --rate 0.001 --processes 2 --grow build/train/half/weights

evaluate: $(VENV)/.ready
	$(PY) -m training.evaluate

clean:
	rm -rf $(VENV) $(VENV)-4.2 $(VENV)-5.0 build dist

$(VENV)/.ready: pyproject.toml tests/system-libraries.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is missing: install it, or name it with PYTHON=/path/to/python3.11 (Blender's module exists for 3.11 alone)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11; name one with PYTHON=/path/to/python3.11." >&2; exit 1; }
	tests/install-system-libraries.sh
	$(PYTHON) -m venv $(VENV)
	$(PY) tests/requirements.py | $(PY) -m pip install --quiet $(PIP_FLAGS) -r /dev/stdin
	echo "$(CURDIR)" > $(VENV)/lib/python3.11/site-packages/blender_omnix.pth
	touch $@

$(VENV)-4.2/.ready: BPY := 4.2.23
$(VENV)-5.0/.ready: BPY := 5.0.1
$(VENV)-4.2/.ready $(VENV)-5.0/.ready: pyproject.toml | $(VENV)/.ready
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PIP_FLAGS) bpy==$(BPY) pytest==9.2.0
	touch $@
