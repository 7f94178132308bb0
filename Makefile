# make book   run the chapters on the embedded data and render the book into _build/html
# make test   lint, unit tests, doctests, notebooks, the built pages
# make bench  ratios against peers and floors
# make clean  remove what was built, keep the environment

PYTHON ?= python3
JOBS   ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: book test bench clean
.DELETE_ON_ERROR:

book: $(READY)
	$(BIN)/faultlines run --here --jobs $(JOBS)
	$(BIN)/faultlines book

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --nbval-lax --nbval-current-env -p no:doctest chapters

bench: $(READY)
	$(BIN)/python -m benchmarks

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

clean:
	rm -rf _build
