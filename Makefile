# Every target makes .venv from the lock file first, quietly and once. Needed beforehand: python3 (3.10-3.12), make, git.
PYTHON ?= python3
VENV := .venv
HOST3 := .venv-open_clip3
HOST_MAIN := .venv-open_clip_main
BIN := $(VENV)/bin
DEMO_DIR ?= demo
BENCH_DIR ?= benchmark
# The paper's configurations, and the recipes that won on validation; see docs/recipe.md.
BENCH_RECIPES ?= clip,paper,paper-adaptor,prompts-1,prompts-50,text-prompts,in-place,mix-0.02,mix-0.1,mix-1,only-entities,scenes,unseen-people
BENCH_QUERIES ?= captions,names,conf1,conf2,conf3,conf4,conf5,conf6
# Waiting threads that spin starve each other on few cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo bench speed test test-main test-slow lint format clean distclean

help:
	@echo "make demo    make, train, evaluate, index and search a small world; ends with $(DEMO_DIR)/report.html"
	@echo "make bench   train the paper's recipes and ours with three seeds; ends with $(BENCH_DIR)/report.html; goes on after a stop"
	@echo "make speed   compare speeds and memory with the hosts'"
	@echo "make test    lint and all tests, also with the second supported open_clip"
	@echo "make test-main OPEN_CLIP_MAIN=path   the tests of the hosts with a checkout of open_clip's main branch"
	@echo "make test-latest   the tests of the hosts with everything as new as it is, caps left aside"
	@echo "make lint | format | clean | distclean"

# Compiled once: where Python may not write bytecode, importing open_clip takes 22 seconds instead of 9, in every process.
$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "setting up $(VENV) (once; about 6 GB with torch)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

# The second host: open_clip 3 cannot be installed beside clip-retrieval, which caps it below 3.
$(HOST3)/.installed: requirements-open_clip3.lock $(VENV)/.installed
	@echo "setting up $(HOST3) (once; shares its files with $(VENV))"
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(HOST3)
	@$(BIN)/uv pip install --quiet --python $(HOST3)/bin/python -r requirements-open_clip3.lock
	@$(BIN)/uv pip install --quiet --python $(HOST3)/bin/python --no-deps -e .
	@touch $@

# A third host, outside of `make test`: open_clip's main branch, from a checkout. Installed anew each time, to follow it.
$(HOST_MAIN)/.installed: requirements-open_clip3.lock $(VENV)/.installed
	@echo "setting up $(HOST_MAIN) (shares its files with $(VENV))"
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(HOST_MAIN)
	@grep -v '^open-clip-torch==' requirements-open_clip3.lock | $(BIN)/uv pip install --quiet --python $(HOST_MAIN)/bin/python -r -
	@$(BIN)/uv pip install --quiet --python $(HOST_MAIN)/bin/python --no-deps -e .
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/idclip demo --output $(DEMO_DIR)

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks.recipes --output $(BENCH_DIR) --recipes $(BENCH_RECIPES) --configurations $(BENCH_QUERIES) $(BENCH_FLAGS)

lint: $(VENV)/.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Where Python may not write bytecode, every process that a test starts compiles the project again.
test: export PYTHONDONTWRITEBYTECODE =
test: lint $(HOST3)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"
	$(HOST3)/bin/python -m pytest -n 2 --dist loadfile -m "host and not slow"

ifdef OPEN_CLIP_MAIN
test-main: export PYTHONDONTWRITEBYTECODE =
test-main: export IDCLIP_OTHER_HOSTS = $(abspath $(BIN)/python):$(abspath $(HOST3)/bin/python)
test-main: $(HOST_MAIN)/.installed $(HOST3)/.installed
	@$(BIN)/uv pip install --quiet --python $(HOST_MAIN)/bin/python --no-deps --reinstall-package open_clip_torch "$(OPEN_CLIP_MAIN)"
	@echo "open_clip of $(OPEN_CLIP_MAIN), commit $$(git -C "$(OPEN_CLIP_MAIN)" rev-parse HEAD 2>/dev/null || echo unknown)"
	$(HOST_MAIN)/bin/python -m pytest -n 2 --dist loadfile -m "(host or open_clip_main) and not slow"
else
test-main:
	@echo "skipped: name a checkout of open_clip's main branch, make test-main OPEN_CLIP_MAIN=path"
endif

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

speed: $(VENV)/.installed
	@for script in $(filter-out benchmarks/measuring.py benchmarks/serving_sides.py benchmarks/serving_soak.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(DEMO_DIR) logs build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(HOST3) $(HOST_MAIN) $(LATEST)

# Rot is seen here first: everything as new as the registry has it, caps left aside; what needs clip-retrieval is skipped.
.PHONY: test-latest
LATEST := .venv-latest
test-latest: export PYTHONDONTWRITEBYTECODE =
test-latest: $(VENV)/.installed
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(LATEST)
	@printf '%s\n' open_clip_torch webdataset numpy Pillow opencv-python scikit-image setuptools >$(LATEST)/overrides.txt
	@$(BIN)/uv pip install --quiet --upgrade --override $(LATEST)/overrides.txt --python $(LATEST)/bin/python -e '.[train,faces,search,dev]' transformers
	@$(BIN)/uv pip list --quiet --python $(LATEST)/bin/python | grep -iE '^(torch|open.clip.torch|webdataset|numpy|pillow|timm|pandas|onnxruntime|transformers) '
	$(LATEST)/bin/python -m pytest -n 2 --dist loadfile -m "host and not slow"
