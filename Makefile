# Set-up happens by itself; PYTHON=... names another interpreter (3.10 or 3.11).
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
INSTALLED := $(VENV)/installed

.PHONY: demo test check slow clean

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
	$(BIN)/python -m deeplab_tf.predict --export_dir=$(RUN)/export \
		--input=$(RUN)/shapes/images/val/val_0000.jpg --output_dir=$(RUN)/predict
	$(BIN)/python -m deeplab_tf.eval --checkpoint_dir=$(RUN)/train --eval_logdir=$(RUN)/eval
	@echo "Made: data $(RUN)/shapes and $(RUN)/records, run $(RUN)/train, pictures $(RUN)/vis,"
	@echo "SavedModel $(RUN)/export, its prediction $(RUN)/predict, scores $(RUN)/eval/results.json."

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy deeplab_tf datasets
	$(BIN)/python -m pytest -m "not slow"

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@sh .ci/make_venv $(VENV) $(PYTHON)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
