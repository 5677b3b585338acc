# Everything a newcomer types: each target sets itself up from a bare python3.
PYTHON ?= python3
BIN = .venv/bin
DEMO = demo
MODEL = build/model
CHROMIUM = chromium

LOWEST = .venv-lowest
# tests of the repository itself, which versions of dependencies do not change
NO_VERSIONS = architecture benchmarks convergence docs packaging site

.PHONY: demo picture model test test-long test-lowest docs check dist format clean

# installed again whenever pyproject.toml changes
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/mt4ssl-bench prepare demo --out $(DEMO)/corpus
	$(BIN)/mt4ssl-bench pretrain mt4ssl_demo data.corpus=$(DEMO)/corpus --out $(DEMO)/runs/mt4ssl_demo
	$(BIN)/mt4ssl-bench evaluate mt4ssl $(DEMO)/runs/mt4ssl_demo fbank random:mt4ssl_demo \
		--task phoneme --task asr --task speaker steps=300 --corpus $(DEMO)/corpus --out $(DEMO)/results
	$(BIN)/mt4ssl-bench report $(DEMO)/results $(DEMO)/runs --out $(DEMO)/report.html

# the picture of the report in docs/, from the demo's results; needs Chromium
picture: .venv/installed
	mkdir -p build docs/pictures
	$(BIN)/mt4ssl-bench report $(DEMO)/results $(DEMO)/runs --out build/report.html
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --disable-quic --hide-scrollbars --log-level=3 --no-first-run \
		--user-data-dir=$$(mktemp -d) --blink-settings=preferredColorScheme=1 \
		--window-size=1280,900 --screenshot=docs/pictures/report.png file://$(CURDIR)/build/report.html

# the model that ships, from the publishers' downloads; resumable, 90 minutes on one core
model: .venv/installed
	$(BIN)/mt4ssl-bench prepare speechocean762 --download --out $(MODEL)/speechocean762
	$(BIN)/mt4ssl-bench prepare librispeech --download --out $(MODEL)/librispeech
	$(BIN)/python benchmarks/build_model.py $(MODEL)/speechocean762 $(MODEL)/librispeech \
		--out $(MODEL)

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # two processes of one thread each

# kills, full-size recipes, s3prl's own programs, the wheel, and the lowest versions
test-long: .venv/installed test-lowest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long

# the package's fast tests with every dependency at its lower bound; about 4 GB, most of it torch's CUDA packages
test-lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 -m 'not long and not speech' \
		$(addprefix --ignore tests/test_,$(addsuffix .py,$(NO_VERSIONS)))

# transformers 5.0 brings typer-slim, whose files replace those of the typer under test
$(LOWEST)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	echo "typer-slim; sys_platform == 'never'" > $(LOWEST)/overrides.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--override $(LOWEST)/overrides.txt --editable '.[demo,dev]'
	touch $@

# the site, in build/site; a page out of date, a dead link or an unknown name fails
docs: .venv/installed
	$(BIN)/python docs/write_tables.py --check
	$(BIN)/python tests/types_tree.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/types_tree.py
	cd build/types && ../../$(BIN)/mypy -p mt4ssl_bench

# sdist and wheel, in dist
dist: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO) build
