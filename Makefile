# make quickstart   the whole pipeline on Fashion-MNIST, from data to pictures: minutes on two cores
# make pictures DATA=FOLDER   the same on your own pictures, at 64 x 64, on a GPU (docs/your_data.md);
#                   CLASSES=number of class folders (1), OUT=folder of the results (output/pictures)
# make ablation     bidirectional and causal tokenizers on crops of photographs, five seeds: an hour on two cores
# make demo         a page that draws images with the quickstart's models; MODELS="output/a output/b" compares others
# make test         the test suite, a worker per core, 8 at most; `.venv/bin/python -m pytest`: the same in one process
# make test-fast    the tests that take a few seconds at most and start no processes: two minutes on two cores
# Each sets up .venv first if need be. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin
CLASSES ?= 1
OUT ?= output/pictures
MODELS ?= output/quickstart/ar
TRAIN_ON = dataset.params.data_path="$(DATA)" experiment.output_dir

.PHONY: quickstart pictures ablation demo test test-fast lint clean

quickstart: .venv/installed
	$(BIN)/python -m experiments.quickstart.run

pictures: .venv/installed
	@test -n "$(DATA)" || (echo "error: name the folder of your pictures: make pictures DATA=FOLDER" >&2; exit 1)
	$(BIN)/python train_tokenizer/train_tokenizer.py config=configs/pictures_64/tokenizer_stage1.yaml \
	    $(TRAIN_ON)="$(OUT)/tokenizer_stage1"
	$(BIN)/python train_tokenizer/train_tokenizer.py config=configs/pictures_64/tokenizer_stage2.yaml \
	    $(TRAIN_ON)="$(OUT)/tokenizer_stage2" experiment.init_from="$(OUT)/tokenizer_stage1/model.safetensors"
	$(BIN)/python train_ar.py config=configs/pictures_64/ar.yaml $(TRAIN_ON)="$(OUT)/ar" \
	    experiment.tokenizer_checkpoint="$(OUT)/tokenizer_stage2/model.safetensors" \
	    model.generator.condition_num_classes=$(CLASSES)
	$(BIN)/python sample.py "$(OUT)/ar" --classes "$$(seq -s, 0 $$(($(CLASSES) > 10 ? 9 : $(CLASSES) - 1)))" \
	    --per_class 8 --output "$(OUT)/samples.png"

ablation: .venv/installed
	$(BIN)/python -m dataset.debian_pictures photographs --count 12000 --output data/photographs_64
	$(BIN)/python -m dataset.debian_pictures photographs --by_picture --count 8000 --output data/photographs_64_by_picture
	$(BIN)/python -m experiments.ablation.run config=configs/pictures_64/ablation.yaml

demo: .venv/installed-demo
	@test "$(MODELS)" != output/quickstart/ar || test -f $(MODELS)/model.safetensors || \
	    (echo "error: no models yet: run make quickstart first, or name others: make demo MODELS=FOLDER" >&2; exit 1)
	$(BIN)/python -m demo $(MODELS)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal -m "not slow"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || (echo "error: Python 3.10 or newer is needed; name one with PYTHON=..." >&2; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

.venv/installed-demo: .venv/installed requirements-demo.txt
	$(BIN)/python -m pip install -r requirements-demo.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-demo.txt requirements-dev.txt
	$(BIN)/python -m pip install -r requirements-demo.txt -r requirements-dev.txt
	touch $@

clean:
	rm -rf output/quickstart .pytest_cache .ruff_cache
