# geopipe: `make demo` and `make test` need only Python 3.11 or later and make; each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv-bench/.ready

# Three processes for two cores: tests wait for Ray half of the time. Whatever shares a cluster or a module stays in one
# of them (tests/conftest.py).
PYTEST := $(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test test-fast test-outside test-newest-ray lint chaos fuzz lock image clean
.PHONY: bench bench-fast bench-check bench-peers bench-analyses bench-memory bench-monitor bench-scaling

demo: $(READY)
	$(BIN)/geopipe demo

test: $(READY)
	$(PYTEST)

# A loop between two edits: without Ray, Postgres and what takes seconds.
test-fast: $(READY)
	$(PYTEST) -m "not ray and not postgres and not slow"

# Only the tests that need the rasters of other projects: in $$GEOPIPE_TEST_DATA, else in ../shared. They skip without.
test-outside: $(READY)
	$(PYTEST) -m outside

# The tests marked newest_ray on the newest Ray of the index, pre-releases included, or on any other: make ... RAY=2.59.0
test-newest-ray: $(READY)
	tests/newest_ray.sh $(RAY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'geopipe needs Python 3.11 or later; name one with: make PYTHON=python3.12 ...'; exit 3; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/geopipe doctor --warm || test $$? -eq 3
	touch $(READY)

# Twenty seeded trials of each thing that can break a run, twenty healthy runs, and a minute without Postgres (tests run
# two, four, and four seconds). Ends with a table.
chaos: $(READY)
	GEOPIPE_TRIALS=20 GEOPIPE_OUTAGE=60 $(BIN)/pytest tests/chaos tests/export/test_lock.py tests/monitoring/test_monitor.py \
		-k "test_chaos or test_lock or test_healthy or outage"

# Five thousand damaged inputs and state files, each to be worked on or refused (tests try three hundred).
fuzz: $(READY)
	PYTHONPATH=tests $(BIN)/python tests/chaos/fuzz.py --count 5000

# All that README and docs/benchmarks.md quote.
bench: bench-fast bench-analyses bench-memory bench-monitor bench-scaling

# Speed beside the loop of an expert, Dask, GDAL and exactextract, kernels beside an older commit, the league table of
# windows: into bench/results.json, README.md and docs/benchmarks.md. Needs 12 GB of disk, two quiet cores, and some
# 40 minutes. It continues where it was cut short; delete bench/results.json to measure all anew.
bench-fast: $(READY) $(PEERS)
	$(BIN)/python bench/fast.py
	$(BIN)/python bench/kernels.py
	$(BIN)/python bench/league.py
	$(BIN)/python bench/check.py --record
	$(BIN)/python bench/report.py

# Kernels and a small run against the recorded ones, as ratios, in a minute: fails if something became much slower.
bench-check: $(READY)
	$(BIN)/python bench/check.py

bench-peers: $(PEERS)

# Peak memory of aligned, exchanged and old-way runs on growing grids; takes some ten minutes.
# Analyses of tables of 10^7 and 10^8 rows, beside scikit-learn: into bench/results.json and docs/benchmarks.md. Needs
# 8 GB of disk and two quiet cores; it continues where it was cut short.
bench-analyses: $(READY)
	$(BIN)/python bench/analyses.py
	$(BIN)/python bench/report.py

bench-memory: $(READY)
	$(BIN)/python bench/memory.py

# Wall time of watched runs against the same runs unwatched, in pairs; takes some ten minutes.
bench-monitor: $(READY)
	$(BIN)/python bench/monitor.py

# 1, 2 and 4 nodes on work that sleeps, blocks a second beside Ray Data alone, and the memory of the driver: into
# bench/results.json and docs/benchmarks.md; takes some six minutes on two quiet cores.
bench-scaling: $(READY)
	$(BIN)/python bench/scaling.py
	$(BIN)/python bench/report.py

$(PEERS): bench/peers.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --no-deps --ignore-requires-python -r bench/peers.txt
	touch $(PEERS)

# Pin anew what pyproject.toml asks for, and list what an image needs of it. Needs uv.
COMPILE := uv pip compile --universal --python-version 3.11 --no-header --no-annotate
NAMES := $(COMPILE) --quiet --constraint requirements.lock
lock:
	$(COMPILE) pyproject.toml --group dev --generate-hashes --output-file requirements.lock
	$(NAMES) pyproject.toml | sed 's/[= ].*//' | sort -u > cluster/image/runtime.txt
	for extra in h3 regions; do $(NAMES) pyproject.toml --extra $$extra | sed 's/[= ].*//' | sort -u | \
		comm -13 cluster/image/runtime.txt - > cluster/image/$$extra.txt; done
	echo hatchling | $(NAMES) - | sed 's/[= ].*//' | sort -u > cluster/image/build.txt
	echo boto3 | $(COMPILE) - --generate-hashes --no-emit-package python-dateutil --no-emit-package six \
		--no-emit-package urllib3 --output-file cluster/image/aws.lock

# Build the image of the Dockerfile with docker, podman or buildah (ENGINE), and run the demo in it. For example:
# make image IMAGE_OPTIONS="--build-arg EXTRAS='h3 regions'"
image:
	cluster/image/build.sh $(IMAGE_OPTIONS)

clean:
	rm -rf .venv .venv-bench .venv-newest bench/data demo output .mypy_cache .ruff_cache .pytest_cache .hypothesis
