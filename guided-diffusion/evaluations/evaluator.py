"""Evaluate samples against a reference, as ADM's evaluator does, on torch.

python3 guided-diffusion/evaluations/evaluator.py REF.npz SAMPLES.npz
torchrun --nproc_per_node=8 guided-diffusion/evaluations/evaluator.py REF.npz SAMPLES.npz --metrics is,fid,sfid,pr,kid
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from evaluation.evaluate_samples import SampleEvaluation, report_lines  # noqa: E402
from evaluation.extractors import load_extractor  # noqa: E402
from evaluation.metrics import ADM_METRICS, METRICS  # noqa: E402
from utils.arguments import HelpFormatter, at_least, file_path  # noqa: E402
from utils.atomic import write_json  # noqa: E402
from utils.errors import UserError, entry_point  # noqa: E402
from utils.output_file import output_file  # noqa: E402
from utils.process import init_process  # noqa: E402

NUMBERS = b'{\n  "features"'  # how a file of --json begins


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument(
        "reference",
        metavar="REF.npz",
        type=file_path,
        help="images as arr_0, statistics, or both (ADM's VIRTUAL file); or a folder of images",
    )
    parser.add_argument(
        "samples",
        metavar="SAMPLES.npz",
        type=file_path,
        help="images as arr_0, uint8 (N, H, W, 3); or a folder of images",
    )
    parser.add_argument(
        "--inception",
        type=file_path,
        help="weights of the 2015 Inception-v3: torch-fidelity's .pth or TensorFlow's .pb",
    )
    parser.add_argument(
        "--classifier", type=file_path, help="use this classifier (evaluation/train_classifier.py), not Inception"
    )
    parser.add_argument("--array", help="name of the images in an .npz without arr_0")
    parser.add_argument("--batch_size", type=at_least(1), default=64)
    parser.add_argument(
        "--metrics",
        help=f"from {','.join(METRICS)}; pr: precision and recall; agreement: share of samples that --classifier"
        f" recognises as the class in arr_1; without: {','.join(ADM_METRICS)}, or those that the reference allows",
    )
    parser.add_argument(
        "--bootstrap", type=at_least(0), default=0, help="resamplings for a 95 %% interval of FID, e.g. 100"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    parser.add_argument("--json", type=file_path, help="also write the numbers to this file")
    args = parser.parse_args()
    evaluation = SampleEvaluation(
        args.reference, args.samples, args.metrics and tuple(args.metrics.split(",")), args.array
    )
    if any(metric.needs_labels for metric in evaluation.metrics) and not args.classifier:
        raise UserError("--metrics agreement needs --classifier: Inception does not know the data's classes")
    state = init_process(args.device)
    with output_file(args.json if state.is_main_process else None, "--json", NUMBERS):
        extractor = load_extractor(args.inception, args.classifier, state.device)
        values = evaluation.run(extractor, args.batch_size, args.bootstrap)
        if values is None:
            return
        print(f"reference {evaluation.reference.describe()}")
        print(report_lines(values), flush=True)  # first: the file may fail
        if args.json:
            write_json(args.json, {"features": extractor.name, **values})


if __name__ == "__main__":
    main()
