"""Upload trained weights to the Hugging Face hub, with their configuration and a model card.

python -m hub.push output/alitok_b name/repository --license cc-by-4.0
python -m hub.push output/alitok_b name/repository --output FOLDER   # write the repository's files, upload nothing
"""

import argparse
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, get_token

from dataset.class_names import CLASSES_FILE
from hub.card import CURVES, PICTURE, model_card
from hub.facts import Facts, read_facts
from modeling.interfaces import Generator, Tokenizer
from sampling.pretrained_folder import find_tokenizer, save_pretrained
from training.record import RECORD_FILE
from utils.arguments import file_path
from utils.atomic import atomic_path, write_text
from utils.errors import UserError, entry_point, warn
from utils.hub_errors import LOG_IN, hub_errors, split_hub_id
from utils.pretrained import CONFIG_FILE, TOKENIZER_FILE, find_pretrained_weights, tokenizer_beside
from utils.weights import EXPORTED_FILE, copy_weights, weights_file

CARD = "README.md"


def write_repository(source: str | Path, target: str | Path, repo_id: str, license: str | None = None) -> None:
    """Put into the folder `target` what a hub repository needs of the folder `source`.

    source: the output folder of a training, one of its checkpoints, or a folder of `save_pretrained`. A README.md in
    it is taken as the card. Weights become safetensors. Raises UserError.
    """
    source, target = Path(source), Path(target)
    weights, facts = weights_file(source), read_facts(source)
    copy_weights(weights, target / EXPORTED_FILE)
    tokenizer = _tokenizer_of(facts)
    if tokenizer is not None:
        copy_weights(tokenizer, target / TOKENIZER_FILE)
    training = facts.config_file.parent
    files = {name: training / name for name in (RECORD_FILE, CLASSES_FILE, CURVES)}
    files |= {CONFIG_FILE: facts.config_file, PICTURE: facts.picture or source / PICTURE, CARD: source / CARD}
    for name, file in files.items():
        if file.is_file():
            with atomic_path(target / name) as part:
                shutil.copyfile(file, part)
    if not (source / CARD).is_file():
        write_text(target / CARD, model_card(facts, repo_id, license, tokenizer is not None))


def _tokenizer_of(facts: Facts) -> Path | None:
    """The weights of a generator's tokenizer; None for a tokenizer, or, with a warning, if they are missing."""
    if facts.generator is None:
        return None
    try:
        found = find_pretrained_weights(tokenizer_beside(find_tokenizer(facts.folder, facts.config_file)))
    except UserError:
        found = None
    if found is None:
        warn(f"warning: {facts.folder} has no {TOKENIZER_FILE}: the repository gets the generator only")
    return found


def push_to_hub(source: str | Path, repo_id: str, *, license: str | None = None, private: bool = False) -> str:
    """Upload a folder as one repository, which is made if it is missing; the address of the commit.

    source: see `write_repository`. repo_id: "name/repository". Raises UserError.
    """
    require_login(repo_id)
    parent = Path(source).resolve().parent  # on the same file system weights are linked, not copied
    with TemporaryDirectory(prefix="hub_", dir=parent if os.access(parent, os.W_OK) else None) as folder:
        write_repository(source, folder, repo_id, license)
        with hub_errors(f"{source} was not uploaded to {repo_id}"):
            api = HfApi()
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Weights").commit_url


def push_models(
    repo_id: str,
    tokenizer: Tokenizer,
    generator: Generator | None = None,
    *,
    license: str | None = None,
    private: bool = False,
) -> str:
    """Upload a tokenizer, or a generator with its tokenizer, that are in memory; the address of the commit.

    Call this before making a pipeline of the models, which changes the generator. Raises UserError.
    """
    with TemporaryDirectory() as folder:
        save_pretrained(Path(folder, "models"), tokenizer, generator)
        return push_to_hub(Path(folder, "models"), repo_id, license=license, private=private)


def require_login(repo_id: str) -> None:
    """Raise UserError for something that is no name of a repository, and without a login."""
    if split_hub_id(repo_id) != (repo_id, None):
        raise UserError(f"'{repo_id}' is no name of a repository on the hub: expected name/repository")
    if not get_token():
        raise UserError(f"not logged in to the Hugging Face hub: {LOG_IN} to a token with write access")


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=file_path, help="output folder of a training, one of its checkpoints, or of save_pretrained")
    add("repo_id", help="name/repository; made if it is missing")
    add("--license", help="licence of the weights, as the hub calls it: apache-2.0, cc-by-4.0, ...; default: none")
    add("--private", action="store_true", help="a repository that is made is private")
    add("--output", type=file_path, help="write the files of the repository to this folder, and upload nothing")
    args = parser.parse_args()
    if args.output:
        if args.output.exists() and any(args.output.iterdir()):
            raise UserError(f"--output {args.output} holds files: name a new folder")
        write_repository(args.folder, args.output, args.repo_id, args.license)
        print(f"wrote {args.output}: {', '.join(sorted(path.name for path in args.output.iterdir()))}")
    else:
        print(f"uploaded: {push_to_hub(args.folder, args.repo_id, license=args.license, private=args.private)}")


if __name__ == "__main__":
    main()
