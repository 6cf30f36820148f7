"""Imports weights that another program trained.

python -m deeplab_tf.import_weights --source=PATH_OR_URL --output=DIR
python -m deeplab_tf.import_weights --list

eval, vis, predict and export_model then take DIR like a run's folder, and train takes it as
--tf_initial_checkpoint.
"""

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.weights.published import PUBLISHED


def main(job: ImportConfig) -> None:
    if job.list:
        print("\n".join(weights.described() for weights in PUBLISHED.values()))
        return
    jobs.start("weight_import", job)


def run() -> None:
    flags.run(main, [ImportConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()
