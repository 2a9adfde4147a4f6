# Every target makes what it needs; see README.md. Variables: PORT, MODELS, PYTHON, RUNTIME (cpu or gpu),
# MINUTES (for soak), TENSORRT_INCLUDE_DIR and CUDA_ARCHITECTURES (for plugins).
PYTHON  ?= python3
RUNTIME ?= cpu
MINUTES ?= 30
VENV    := .venv
PIP     := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
cpu     := cpu,openvino
SERVER  := client,server,$(or $($(RUNTIME)),$(RUNTIME))
ALL     := $(SERVER),export,dev

.PHONY: help install serve test lint format test-browser screenshots test-clients test-ray bench soak fuzz plugins docs clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/installed-all-$(RUNTIME)  ## everything into .venv: export (torch), server, client, tests

serve: $(VENV)/installed-server-$(RUNTIME)  ## serve the demo model, or MODELS=..., on 127.0.0.1:8000, or PORT=...
	@exec $(VENV)/bin/maskline serve $(MODELS) $(if $(PORT),--port $(PORT))

test: install  ## all tests but the browser's
	$(VENV)/bin/python -m pytest

test-browser: install  ## the demo page in Chromium (Debian: chromium, chromium-driver)
	@command -v chromedriver >/dev/null || { echo "Install Chromium and its driver first: apt-get install chromium chromium-driver"; exit 1; }
	$(VENV)/bin/python -m pytest tests/browser

screenshots: install  ## write the pictures of README and docs into docs/images
	SCREENSHOTS=docs/images $(VENV)/bin/python -m pytest tests/browser/test_looks.py tests/browser/test_load_report.py tests/browser/test_diff_page.py -k "readmes_picture or picture_of_the_docs"

test-clients: install  ## tools that people have already (Triton's client and others), unmodified, against a server
	@test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/real_clients/requirements.txt --editable ".[client]"
	@.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/real_clients/requirements-fiftyone.txt || echo "FiftyOne does not install here; its tests are skipped."
	.venv-clients/bin/python -m pytest -c tests/real_clients/pytest.ini --rootdir . tests/real_clients

test-ray:  ## Ray Serve and maskline batch on a Ray cluster of three nodes, which are processes
	@test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement tests/real_ray/requirements.txt --editable ".[client,server,cpu,ray]"
	.venv-ray/bin/python -m pytest -c tests/real_ray/pytest.ini --rootdir . tests/real_ray

SECONDS ?= 600
fuzz: install  ## parsers and decoders against made-up input, for 10 minutes each, or SECONDS=... (TARGETS="rle form")
	@$(PIP) --editable ".[fuzz]"
	$(VENV)/bin/python -m tests.fuzz $(TARGETS) --seconds $(SECONDS)

lint: install  ## ruff, mypy, and who may import whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: install  ## the benchmarks that need no GPU, into benchmarks/results (minutes; a quiet machine)
	@mkdir -p benchmarks/results
	$(VENV)/bin/python benchmarks/model.py --json benchmarks/results/model.json --plot benchmarks/results/model.png
	$(VENV)/bin/python benchmarks/serving.py --json benchmarks/results/serving.json --plot benchmarks/results/serving.png
	$(VENV)/bin/python benchmarks/masks.py --json benchmarks/results/masks.json --plot benchmarks/results/masks.png
	$(VENV)/bin/python benchmarks/decode.py --json benchmarks/results/decode.json --plot benchmarks/results/decode.png
	$(VENV)/bin/python benchmarks/engines.py --json benchmarks/results/engines.json --plot benchmarks/results/engines.png
	$(VENV)/bin/python benchmarks/plan.py --json benchmarks/results/plan.json --plot benchmarks/results/plan.png

soak: install  ## a server under mixed load, reloads, overload and SIGTERM, for MINUTES=30
	$(VENV)/bin/python -m benchmarks.soak --minutes $(MINUTES) --output benchmarks/results/soak

format: install  ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

plugins: | $(VENV)/bin/python  ## the TensorRT plugin library, plugins/build/libmaskline_plugins.so (docs/gpu.md)
	@$(VENV)/bin/python plugins/build.py $(if $(TENSORRT_INCLUDE_DIR),--tensorrt-include-dir $(TENSORRT_INCLUDE_DIR)) $(if $(CUDA_ARCHITECTURES),--architectures "$(CUDA_ARCHITECTURES)")

docs: install  ## write the table of settings into docs/operations.md
	$(VENV)/bin/python docs/settings_table.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .venv-clients .venv-ray .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Maskline needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-server-$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the server into $(VENV) (once, about a minute) ..."
	$(PIP) --editable ".[$(SERVER)]"
	@touch $@

$(VENV)/installed-all-$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing everything into $(VENV) (once, a few minutes) ..."
	$(PIP) --editable ".[$(ALL)]"
	@touch $@ $(VENV)/installed-server-$(RUNTIME)
