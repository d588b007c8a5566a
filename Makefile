# make demo        Pong from pixels: teacher to proven student and report, on 2 cores
# make quickstart  CartPole from nothing: train a teacher, distil it, verdict, report
# make test        the tests          make check   format, lint, types, links of the documentation
# make pages       every command of docs/fields, at a tenth of its budget, with the packages of all fields
# make chaos       hostile files, kills, broken disks and environments, random users; MINUTES (10) of fuzzing
# make site        the documentation as a site, in build/site
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(shell date +%Y%m%d-%H%M%S)
# An empty CONSTRAINTS= takes the newest PyTorch, with CUDA where the platform's default build has it.
CONSTRAINTS ?= -c constraints.txt
MINUTES ?= 10
SEED ?= 0

.PHONY: demo quickstart test pages chaos soak check types links site clean

demo: $(VENV)/.user
	$(BIN)/distilrl distill --teacher zoo/pong-dqn --env PongNoFrameskip-v4 --student cnn:16,16,16:64 \
	    --out runs/pong-$(STAMP)
	@echo "To go on: . $(VENV)/bin/activate, or $(BIN)/distilrl in place of distilrl"

quickstart: $(VENV)/.user
	$(BIN)/distilrl train-teacher --env CartPole-v1 --stop-return 500 --out runs/cartpole-teacher-$(STAMP)
	$(BIN)/distilrl distill --teacher runs/cartpole-teacher-$(STAMP) --env CartPole-v1 --student mlp:16 \
	    --out runs/cartpole-$(STAMP)
	@echo "To go on: . $(VENV)/bin/activate, or $(BIN)/distilrl in place of distilrl"

RAY := tests/test_collectors.py tests/test_ray.py
test: $(VENV)/.dev  # those on Ray wait for most of their time, and look for the one Ray that runs here: one process for them
	@$(BIN)/python -m pytest $(RAY) > $(VENV)/ray.log 2>&1 & ray=$$!; trap 'kill $$ray' INT TERM; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(RAY:%=--ignore=%); others=$$?; \
	wait $$ray; on_ray=$$?; cat $(VENV)/ray.log; exit $$((others + on_ray))

pages: $(VENV)/.pages
	$(BIN)/python -m pytest -m 'slow or not slow' tests/test_fields.py

chaos: $(VENV)/.dev
	$(BIN)/python tests/chaos/fuzz.py --seconds $$((60 * $(MINUTES))) --seed $(SEED)
	$(BIN)/python tests/chaos/kill.py --kills 200 --seed $(SEED)
	$(BIN)/python tests/chaos/disk.py
	$(BIN)/python tests/chaos/faults.py
	$(BIN)/python tests/chaos/starts.py --starts 200 --seed $(SEED)
	$(BIN)/python tests/chaos/users.py --users 100 --seed $(SEED)

soak: $(VENV)/.dev  # four hours each; CHEETAH=tqc-HalfCheetah-v3.zip of rl-trained-agents
	@test -n "$(CHEETAH)" || { echo "make soak CHEETAH=tqc-HalfCheetah-v3.zip: name the teacher's file."; exit 2; }
	$(BIN)/python tests/chaos/soak.py --env PongNoFrameskip-v4 --teacher zoo/pong-dqn --hours 4
	$(BIN)/python tests/chaos/soak.py --env HalfCheetah-v5 --teacher $(CHEETAH) --hours 4

check: $(VENV)/.dev  # types and links take a core each
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory --jobs 2 types links

types: $(VENV)/.dev
	$(BIN)/mypy --num-workers 2

links: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# compiled on every core, as pip does on one, but for what nothing here imports; a file that is none of Python's is no
# error to pip either
NOT_COMPILED := '/(tests?|examples|_internal|mypyc?|pip|rllib|serve|OpenGL|fontTools|physics|lexers)/'
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=python3.12")'
$(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(CONSTRAINTS) -e '.[$(EXTRAS)]'
@$(BIN)/python -W ignore -m compileall -qq -j 0 -x $(NOT_COMPILED) $(VENV)/lib src || true
endef

$(VENV)/.user: EXTRAS := render,tensorboard
$(VENV)/.user: pyproject.toml constraints.txt
	@echo "Installing distilrl with PyTorch, pygame and TensorBoard into $(VENV), which is done once"
	$(install)
	touch $@

$(VENV)/.dev: EXTRAS := dev
$(VENV)/.dev: pyproject.toml constraints.txt
	$(install)
	touch $@ $(VENV)/.user

$(VENV)/.pages: EXTRAS := dev,all,treatment,medical,trading
$(VENV)/.pages: pyproject.toml constraints.txt
	$(install)
	touch $@ $(VENV)/.dev $(VENV)/.user

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
