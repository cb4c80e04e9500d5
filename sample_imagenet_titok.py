"""Sample with TiTok's published command line; the same as sample_imagenet.py.

torchrun --nproc_per_node=8 sample_imagenet_titok.py config=configs/infer/TiTok/titok_l32.yaml \\
    experiment.output_dir=titok_l_32
"""

from sample_imagenet import main

if __name__ == "__main__":
    main()
