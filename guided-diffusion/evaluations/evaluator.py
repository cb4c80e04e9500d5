"""Evaluate samples against a reference, as ADM's evaluator does, on torch.

python3 guided-diffusion/evaluations/evaluator.py REF.npz SAMPLES.npz
torchrun --nproc_per_node=8 guided-diffusion/evaluations/evaluator.py REF.npz SAMPLES.npz --metrics is,fid,sfid,pr,kid
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from evaluation.evaluate_samples import ADM_METRICS, METRICS, evaluate_npz  # noqa: E402
from evaluation.extractors import load_extractor  # noqa: E402
from utils.arguments import at_least  # noqa: E402
from utils.atomic import write_atomically  # noqa: E402
from utils.errors import entry_point  # noqa: E402
from utils.process import init_process  # noqa: E402


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("reference", metavar="REF.npz", help="images as arr_0, or ADM's VIRTUAL file")
    parser.add_argument("samples", metavar="SAMPLES.npz", help="images as arr_0, uint8 (N, H, W, 3)")
    parser.add_argument(
        "--inception", help="weights of the 2015 Inception-v3: torch-fidelity's .pth or TensorFlow's .pb"
    )
    parser.add_argument("--classifier", help="use this classifier (evaluation/train_classifier.py) for Inception")
    parser.add_argument("--batch_size", type=at_least(1), default=64)
    parser.add_argument(
        "--metrics",
        default=",".join(ADM_METRICS),
        help=f"of {','.join(METRICS)}; pr: precision, recall; agreement: share of the samples that --classifier"
        " recognises as their class (arr_1)",
    )
    parser.add_argument(
        "--bootstrap", type=at_least(0), default=0, help="resamplings for a 95 %% interval of FID, e.g. 100"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    state = init_process(args.device)
    extractor = load_extractor(args.inception, args.classifier, state.device)
    metrics = tuple(args.metrics.split(","))
    report = evaluate_npz(
        args.reference, args.samples, extractor, args.batch_size, metrics=metrics, bootstrap=args.bootstrap
    )
    if report is None:
        return
    if args.json:
        content = {"features": extractor.name, **report.values}
        write_atomically(args.json, lambda f: f.write(json.dumps(content, indent=2).encode()))
    print(report.lines())


if __name__ == "__main__":
    main()
