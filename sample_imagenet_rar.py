"""Sample with RAR's published command line; the same as sample_imagenet.py.

torchrun --nproc_per_node=8 sample_imagenet_rar.py config=configs/training/generator/rar.yaml \\
    experiment.output_dir=rar_b experiment.generator_checkpoint=rar_b.bin
"""

from sample_imagenet import main

if __name__ == "__main__":
    main()
