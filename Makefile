# Everything a newcomer types: each target sets itself up from a bare python3.
PYTHON ?= python3
BIN = .venv/bin
DEMO = demo

.PHONY: demo test check format clean

# installed anew whenever pyproject.toml changes
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/mt4ssl-bench prepare demo --out $(DEMO)/corpus
	$(BIN)/mt4ssl-bench pretrain mt4ssl_demo data.corpus=$(DEMO)/corpus --out $(DEMO)/runs/mt4ssl_demo
	$(BIN)/mt4ssl-bench evaluate $(DEMO)/runs/mt4ssl_demo fbank random:mt4ssl_demo \
		--task phoneme --task asr --task speaker steps=300 --corpus $(DEMO)/corpus --out $(DEMO)/results

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # two processes of one thread each

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/types_tree.py
	cd build/types && ../../$(BIN)/mypy -p mt4ssl_bench

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO) build
