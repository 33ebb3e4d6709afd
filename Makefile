# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv and install first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find vibfx passes cli -name '*.py') pyproject.toml README.md

.PHONY: demo test lint types unit slow fuzz bench zoo round-trips scaling shrinking targets widths
.PHONY: never-slower baselines loading applying clean

demo: $(VENV)/.installed
	$(BIN)/vibfx demo

test: lint types unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The three source folders install as one package, so types are checked on what is installed.
types: $(VENV)/.installed
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p vibfx

# One process a core, a file each; the numeric libraries' own threads would only get in the way.
unit: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

slow: $(VENV)/.installed
	$(BIN)/pytest -m slow

# Random networks and masks against the oracle: an hour or two. What fails goes into a file.
fuzz: $(VENV)/.installed
	cd tests && ../$(BIN)/python -m fuzzing --pairs 10000 --onnx 100

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/mnist.py mnist:$(VIBFX_DATA)

# Every architecture of torchvision and the like: hours. Goes on where it was interrupted.
zoo: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt ".[bench]"
	cd benchmarks && ../$(BIN)/python -m zoo

# Networks of the zoo saved, and read back where there is no package of models: half an hour.
round-trips: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt ".[bench]"
	cd benchmarks && ../$(BIN)/python round_trips.py

scaling: $(VENV)/.installed
	cd benchmarks && ../$(BIN)/python analysis_scaling.py

# The same compression with and without shrinking during training: a quarter of an hour.
shrinking: $(VENV)/.installed
	$(BIN)/python benchmarks/shrinking.py lenet5 mnist:$(VIBFX_DATA)

# Five kinds of network, three targets each: half an hour.
targets: $(VENV)/.installed
	cd benchmarks && ../$(BIN)/python targets.py

# Half of the FLOPs of five networks in widths of whole steps and of any, beside Torch-Pruning.
widths: $(VENV)/.installed
	cd benchmarks && OMP_NUM_THREADS=1 ../$(BIN)/python widths.py

# Random networks and targets against their originals.
never-slower: $(VENV)/.installed
	cd benchmarks && OMP_NUM_THREADS=1 ../$(BIN)/python never_slower.py

# What it costs to look at a model file before it is read, on 500 MB of every format: minutes.
loading: $(VENV)/.installed
	cd benchmarks && OMP_NUM_THREADS=1 ../$(BIN)/python loading.py

# vibfx.apply on every classifier of torchvision: half an hour.
applying: $(VENV)/.installed
	cd benchmarks && OMP_NUM_THREADS=1 ../$(BIN)/python applying.py

# Gates against the importances of Torch-Pruning, three seeds: hours.
baselines: $(VENV)/.installed
	$(BIN)/python benchmarks/baselines.py lenet5 mnist:$(VIBFX_DATA) --results out/baselines.jsonl

# What the package depends on, at the pinned versions; made anew when those change.
$(VENV)/.dependencies: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt ".[demo,dev,examples,tensorboard]"
	touch $@

# The package itself, as a user gets it; installed again when the code changes.
$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --force-reinstall .
	rm -rf build
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
