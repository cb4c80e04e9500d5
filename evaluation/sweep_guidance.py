"""Sample and evaluate a generator at each point of a grid of guidance settings.

torchrun --nproc_per_node=8 -m evaluation.sweep_guidance config=configs/alitok_b.yaml generator=weights/alitok_b.bin \\
    tokenizer=weights/AliTok.pth reference=VIRTUAL_imagenet256_labeled.npz output_dir=output/sweep \\
    scales=[8,12,16,20] powers=[1.2,1.8,2.4] temperatures=[1.0] num_samples=10000
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from omegaconf import MISSING, OmegaConf

from evaluation.extractors import load_extractor
from evaluation.features import Extractor
from evaluation.fid import Statistics
from evaluation.metrics import MetricInputs, choose_metrics, compute_metrics, possible_metrics
from evaluation.reference import Reference
from evaluation.sweep_axes import Point, grid, point_name, settings_of, typed_axes
from evaluation.sweep_points import PointFeatures, draw_features
from evaluation.sweep_report import HIDDEN, best, heat_map, overrides, table
from modeling.build import tokenizer_fingerprint
from sampling.pipeline import Pipeline
from sampling.shards import choose_shard_size
from utils.atomic import write_json, write_text
from utils.config import load_config, option
from utils.errors import UserError, entry_point
from utils.process import init_process
from utils.weights import fingerprint
from utils.yaml_files import read_yaml

SHORT_NAMES = {"scales": "guidance_scale", "powers": "guidance_scale_pow", "temperatures": "temperature"}


@dataclass
class SweepSettings:
    config: str = option(MISSING, "configuration of the generator", path="read")
    reference: str = option(MISSING, "reference file of the evaluator", path="read")
    output_dir: str = option(MISSING, "folder for table, picture and finished points", path="write")
    generator: str | None = option(
        None, "weights, or folder of a training; null: experiment.generator_checkpoint of the file", path="read"
    )
    tokenizer: str | None = option(None, "weights; null: beside the generator's, or as the file says", path="read")
    scales: list[float] | None = option(None, "values of guidance_scale")
    powers: list[float] | None = option(None, "values of guidance_scale_pow")
    temperatures: list[float] | None = option(None, "values of temperature")
    axes: dict[str, Any] = option({}, "values of any other setting of the decoder, e.g. axes.top_p=[0.9,1.0]")
    num_samples: int = option(5000, "images of each point; image i has class i mod the number of classes", min=4)
    metrics: list[str] = option(["is", "fid", "pr"], "as in the evaluator's --metrics")
    rank_by: str = option("fid", "value that the best settings are chosen by")
    classifier: str | None = option(None, "features of this classifier in place of Inception's", path="read")
    inception: str | None = option(None, "Inception weights; null: as the evaluator finds them", path="read")
    seed: int | None = option(None, "of the noise; null: model.generator.seed", min=0)
    batch_size: int = option(125, "images per process and batch", min=1)
    precision: str | None = option(None, "null: bf16 on a GPU, fp32 on the CPU", choices=(None, "fp32", "bf16"))
    compile: bool | None = option(None, "compile the decoding; null: on a GPU only")


class Sweep:
    """Models, reference features and points, which are loaded once for the whole grid."""

    def __init__(self, settings: SweepSettings, state: PartialState):
        """Raises UserError, before any sampling, for files or settings that do not fit."""
        self.settings, self.state = settings, state
        self.output_dir = Path(settings.output_dir)
        metrics = choose_metrics(tuple(settings.metrics))
        self.reference = Reference(settings.reference)
        stored, without_images = self.reference.stored, self.reference.images is None
        self.metrics = possible_metrics(metrics, stored, without_images, settings.reference, False)
        keys = [key for metric in self.metrics for key in metric.titles if key not in HIDDEN]
        if settings.rank_by not in keys:
            raise UserError(f"rank_by is '{settings.rank_by}': choose {' | '.join(keys)}")
        source = settings.generator or OmegaConf.select(read_yaml(settings.config), "experiment.generator_checkpoint")
        if not source:
            raise UserError("generator is not set: the weights to sample from")
        self.pipeline = Pipeline.from_pretrained(
            source,
            tokenizer=settings.tokenizer,
            config=settings.config,
            device=state.device,
            seed=settings.seed,
            precision=settings.precision,
            compile=settings.compile,
            batch_size=min(settings.batch_size, choose_shard_size(settings.num_samples)),
        )
        short = {SHORT_NAMES[name]: getattr(settings, name) for name in SHORT_NAMES}
        given = {name: values for name, values in short.items() if values}
        if twice := [name for name in given if name in settings.axes]:
            raise UserError(f"axes.{twice[0]} is given twice: as an axis and by its short name")
        self.axes = typed_axes(self.pipeline.settings, given | settings.axes)
        if not self.axes:
            raise UserError("nothing to sweep: set scales, powers, temperatures or axes")
        self.points = grid(self.axes)
        self.extractor: Extractor = load_extractor(settings.inception, settings.classifier, state.device)
        if any(metric.needs_labels for metric in self.metrics) and self.extractor.num_classes is None:
            raise UserError("metrics: agreement needs classifier=FILE")
        num_classes = self.pipeline.generator.num_classes
        self.classes = [i % num_classes for i in range(settings.num_samples)]
        self.reference.require_network(self.extractor)
        self._inputs: MetricInputs | None = None
        self.identity = {
            "tokenizer": tokenizer_fingerprint(self.pipeline.tokenizer),
            "generator": fingerprint(self.pipeline.generator.state_dict()),
            "seed": self.pipeline.seed,
            "precision": self.pipeline.precision,
            "features": self.extractor.name,
            "reference": self.reference.describe(),
            "metrics": sorted(settings.metrics),
        }

    def run(self) -> list[dict[str, float]] | None:
        """Values of all points on the main process, None on the others; finished points are read."""
        base, outputs = self.pipeline.settings, {}
        settings = [settings_of(base, point) for point in self.points]
        names = [point_name(how, base) for how in settings]
        for number, (name, how) in enumerate(zip(names, settings, strict=True), 1):
            if name not in outputs:
                folder, identity = self.output_dir / "points" / name, {**self.identity, **asdict(how)}
                outputs[name] = PointFeatures(folder, len(self.classes), identity)
                self._finish_point(outputs[name], how, f"[{number}/{len(self.points)}] {name}")
        self.state.wait_for_everyone()
        return [outputs[name].values() for name in names] if self.state.is_main_process else None

    def _finish_point(self, output: PointFeatures, settings: Any, title: str) -> None:
        with output.locked(self.state):
            if output.prepare_together(self.state):
                self.state.print(f"{title}: done before")
                return
            pipeline = self.pipeline.with_settings(**asdict(settings))
            draw_features(pipeline, self.extractor, output, self.classes, title, self.state)
            inputs = self._reference_inputs()
            if self.state.is_main_process:
                inputs = replace(inputs, samples=output.read().to(self.state.device))
                output.mark_complete({**output.identity, "values": compute_metrics(self.metrics, inputs)})

    def _reference_inputs(self) -> MetricInputs:
        """The reference's side of the metrics, without samples; computed at the first point that needs it."""
        if self._inputs is None:
            device, features = self.state.device, None
            stored = self.reference.stored
            if any(metric.needs_reference_images(stored) for metric in self.metrics):
                features = self.reference.features(self.extractor, self.settings.batch_size)
            if features is not None:  # on the main process only
                stored = {"pool": Statistics.from_features(features.pool), **stored}
            self._inputs = MetricInputs(
                samples=None,
                reference=features and features.to(device),
                stored={kind: statistics.to(device) for kind, statistics in stored.items()},
                labels=torch.tensor(self.classes, device=device),
                resamplings=0,
            )
        return self._inputs


def report(sweep: Sweep, results: list[dict[str, float]]) -> None:
    """Write table, numbers and picture; print the table and the best settings."""
    points: list[Point] = sweep.points
    write_text(sweep.output_dir / "sweep.md", table(points, results))
    rows = [{"settings": point, "values": values} for point, values in zip(points, results, strict=True)]
    write_json(sweep.output_dir / "sweep.json", {**sweep.identity, "num_samples": len(sweep.classes), "points": rows})
    heat_map(sweep.axes, points, results, sweep.output_dir / "sweep.png")
    winner, key = best(results, sweep.settings.rank_by), sweep.settings.rank_by
    print(f"\n{sweep.reference.describe()}\nfeatures: {sweep.extractor.name}\n")
    print(table(points, results))
    count, value = len(sweep.classes), results[winner][key]
    print(f"best {key}: {value:.4g} (FID compares only at equal numbers, here {count} samples a point), with")
    print(f"    {overrides(points[winner])}")
    print(f"wrote {sweep.output_dir}/sweep.png, sweep.md, sweep.json")


@entry_point
def main() -> None:
    settings = load_config(SweepSettings, __doc__, from_file=False)
    sweep = Sweep(settings, init_process())
    results = sweep.run()
    if results is not None:
        report(sweep, results)


if __name__ == "__main__":
    main()
