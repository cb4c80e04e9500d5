"""Show a page that draws images with one model, or with several to compare.

python -m demo output/quickstart/ar
python -m demo output/alitok_b output/rar_b --port 8000
"""

import argparse
import os

from modeling.layers.precision import PRECISIONS
from utils.arguments import at_least, file_path, number
from utils.errors import UserError, entry_point
from utils.process import init_process


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="source", help="folder of a training, hub id (name/repository), or weights file")
    add("--config", type=file_path, help="YAML of sources that are weights files")
    add("--tokenizer", type=file_path, help="tokenizer weights; default: those beside each generator")
    add("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0: for other machines too (default: loopback)")
    add("--port", type=number(int, min=1, max=65535), default=7860, help="default: 7860")
    add("--max_images", type=at_least(1), default=16, help="images of one drawing (default: 16)")
    add("--precision", choices=PRECISIONS, help="default: bf16 on a GPU, fp32 on the CPU")
    add("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    return parser.parse_args()


@entry_point
def main() -> None:
    args = parse_arguments()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        from demo.models import load_models
        from demo.page import build_page, require_free_port, serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("the page needs gradio: pip install -r requirements-demo.txt") from error
    require_free_port(args.host, args.port)
    models = load_models(
        args.sources,
        config=args.config,
        tokenizer=args.tokenizer,
        device=init_process(args.device).device,
        precision=args.precision,
        batch_size=args.max_images,
    )
    serve(build_page(models), args.host, args.port)


if __name__ == "__main__":
    main()
