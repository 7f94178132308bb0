# make book   render the published results, run the chapters on the embedded data, and render the book again
# make test   lint, types, unit tests and doctests with their coverage by room, the smoke notebooks by strict nbval, and
#             the built pages where there are any
# make pdf    the book on paper, by LaTeX: _build/latex/fault-lines.pdf
# make bench  ratios against peers and floors
# make clean  remove what was built, keep the environment

PYTHON ?= python3
JOBS   ?= 2
# also what is fresh and came with the clone; `make book EXECUTE=` takes it as it is
EXECUTE ?= --here
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# one thread a worker: JOBS workers with a thread pool each would wait for one another
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope

ROOMS := data models attacks estimators training studies reporting notebook runner book cli

.PHONY: book test pdf bench clean
.DELETE_ON_ERROR:

book: $(READY)
	-$(BIN)/faultlines book  # what is published can be read while the chapters run
	$(BIN)/faultlines run $(EXECUTE) --jobs $(JOBS)
	$(BIN)/faultlines book

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright lib
	$(BIN)/mypy
	COVERAGE_CORE=sysmon $(PYTEST) --cov --cov-report=
	@echo "lines of each room that these tests ran, kernels and other processes not counted:"
	@for room in $(ROOMS); do printf '%-12s%s %%\n' $$room \
	  "$$($(BIN)/coverage report --format=total --include="lib/faultlines/$$room/*")"; done
	$(PYTEST) --nbval tests/notebooks

pdf: $(READY)
	$(BIN)/jupyter-book build . --builder pdflatex

bench: $(READY)
	$(BIN)/python -m benchmarks

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf _build
