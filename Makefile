# make demo        Pong from pixels: teacher to proven student and report, on 2 cores
# make quickstart  CartPole from nothing: train a teacher, distil it, verdict, report
# make test        the tests          make check   format, lint, types, links of the documentation
# make site        the documentation as a site, in build/site
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(shell date +%Y%m%d-%H%M%S)
# An empty CONSTRAINTS= takes the newest PyTorch, with CUDA where the platform's default build has it.
CONSTRAINTS ?= -c constraints.txt

.PHONY: demo quickstart test check site clean

demo: $(VENV)/.user
	$(BIN)/distilrl distill --teacher zoo/pong-dqn --env PongNoFrameskip-v4 --student cnn:16,16,16:64 \
	    --out runs/pong-$(STAMP)

quickstart: $(VENV)/.user
	$(BIN)/distilrl train-teacher --env CartPole-v1 --stop-return 500 --out runs/cartpole-teacher-$(STAMP)
	$(BIN)/distilrl distill --teacher runs/cartpole-teacher-$(STAMP) --env CartPole-v1 --student mlp:16 \
	    --out runs/cartpole-$(STAMP)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/test_collectors.py --ignore=tests/test_ray.py
	$(BIN)/python -m pytest tests/test_collectors.py tests/test_ray.py  # alone: they look for the one Ray that runs here

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.user: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[render,tensorboard]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@ $(VENV)/.user

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
