# Four audio-visual localization papers. `make help` lists what there is; every target prepares .venv by itself.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python
NPROC  ?= 1
LAUNCH  = $(if $(filter-out 1,$(NPROC)),$(VENV)/bin/torchrun --standalone --nproc-per-node $(NPROC),$(RUN))
FLAGS   = $(if $(OBJECTS),--objects "$(OBJECTS)") $(ARGS)
METHODS = turn sslalign avkd stmnet

.DEFAULT_GOAL := help
.PHONY: help setup test test-fast fuzz lint bench weights data-stamps tables sync-copies

help:  ## this list
	@grep -hE '^[a-zA-Z_%-]+:.*## ' $(MAKEFILE_LIST) | sed 's/%/M/' | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  M is one of: $(METHODS).  ARGS=\"--flag value\" passes flags on, NPROC=n runs n processes, OBJECTS=DIR composes scenes from DIR."

$(VENV)/ready: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (PYTHON=python3.12 make …)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

setup: $(VENV)/ready  ## make .venv and install the locked dependencies

train-%: $(VENV)/ready  ## train method M on embedded scenes, evaluate it, print the table
	$(LAUNCH) -m $*.train $(FLAGS)

eval-%: $(VENV)/ready  ## evaluate a checkpoint: ARGS="--checkpoint … --data … --root …"
	$(LAUNCH) -m $*.evaluate $(FLAGS)

localize-%: $(VENV)/ready  ## find what sounds: IMAGE= AUDIO="a.wav b.wav" OUT= (stmnet: VIDEO=)
	$(RUN) -m $*.localize $(if $(VIDEO),--video "$(VIDEO)",--image "$(IMAGE)" --audio "$(AUDIO)") \
		--out "$(or $(OUT),localized.$(if $(VIDEO),gif,png))" $(ARGS)

report-%: $(VENV)/ready  ## write report.html of the newest run anew, or of NAME=
	$(RUN) -m common.evaluation.page "runs/$*$(NAME:%=/%)"

demo-%: $(VENV)/ready  ## a page on 127.0.0.1 to drop an image and audio on (PORT=8000)
	$(RUN) -m $*.localize --demo $(or $(PORT),8000) $(ARGS)

ablate-%: $(VENV)/ready  ## the paper's ablation on scenes: ARGS="--table … --seeds 3"
	$(RUN) -m $*.ablate $(FLAGS)

# one process a core, one torch thread in each; tests/conftest.py says how long it took last time
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadgroup

test: $(VENV)/ready  ## all tests
	$(PYTEST)

test-fast: $(VENV)/ready  ## the tests that take under a minute together
	$(PYTEST) -m "not slow"

fuzz: $(VENV)/ready  ## 10 000 damaged files for every reader: ARGS="--files N --seed N"
	$(RUN) -m tests.fuzz $(ARGS)

lint: $(VENV)/ready  ## style
	$(RUN) -m ruff check .

bench: $(VENV)/ready  ## how fast everything is on this machine
	$(RUN) -m tests.bench

weights: $(VENV)/ready  ## fetch the published pretrained files: ARGS="NAME …"
	$(RUN) -m third_party.fetch $(ARGS)

data-stamps:  ## find Tux Paint's stamps, real cut-outs with real sounds, for OBJECTS=
	@for d in /usr/share/tuxpaint/stamps /usr/local/share/tuxpaint/stamps; do if [ -d $$d ]; then echo "OBJECTS=$$d"; exit 0; fi; done; \
	echo "not installed; on Debian and Ubuntu: sudo apt-get install tuxpaint-stamps-default"; exit 2

tables: $(VENV)/ready  ## put the tables of results/ into the READMEs and the log
	$(RUN) -m tests.tables

sync-copies: $(VENV)/ready  ## copy an edited shared file of backbones/ to the other folders
	$(RUN) -m tests.copies
