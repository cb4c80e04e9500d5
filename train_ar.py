"""Train a generator on a token cache.

accelerate launch train_ar.py config=configs/alitok_b.yaml experiment.output_dir=alitok_b
"""

from train_generator.config import ARConfig
from train_generator.trainer import GeneratorTrainer
from utils.config import load_config
from utils.errors import entry_point


@entry_point
def main() -> None:
    GeneratorTrainer(load_config(ARConfig, __doc__)).run()


if __name__ == "__main__":
    main()
