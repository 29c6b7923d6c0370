# make demo       trains the default network on the embedded digits and shows the result
# make test       runs the tests that one runs while working, in a few minutes
# make test-all   runs these, then the slow ones: the pages of docs/, most runs of several processes, long runs
# make docs       makes the site of docs/ in build/site
# make gpu        measures all that a GPU decides, in nine minutes, on a machine that has one (CIFAR10=FOLDER_OF_JPEGS)
# They make .venv on their first call and start at once afterwards.

VENV := .venv
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
RUN_DIR ?= runs/digits
CUDA ?= cuda13

.PHONY: demo test test-all docs notebook faults gpu lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/python train.py --config configs/digits.py --workdir $(RUN_DIR)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m "not slow"

test-all: test
	$(VENV)/bin/python -m pytest -m slow

docs: $(VENV)/.installed-docs
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/site
	$(VENV)/bin/python docs/check_site.py build/site
	@echo "the site: build/site/index.html"

# Runs the notebook and keeps what it shows.
notebook: $(VENV)/.installed-docs
	$(VENV)/bin/jupyter-execute --inplace docs/first_look.ipynb

# Processes killed, disks filled, bits flipped, and what becomes of the runs: half an hour, or FAULTS_MINUTES=2.
faults: $(VENV)/.installed-test
	$(VENV)/bin/python tests/faults/campaign.py $(if $(FAULTS_MINUTES),--minutes $(FAULTS_MINUTES))

gpu: $(VENV)/.installed-test $(VENV)/.installed-$(CUDA)
	$(VENV)/bin/python benchmarks/gpu.py --to build/gpu $(if $(CIFAR10),--cifar10 $(CIFAR10))

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV)

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.13 found; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@
