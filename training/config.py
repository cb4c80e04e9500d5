"""The sections that the trainings share. Each component declares its settings beside its code.

`--help` lists the options of the last base class first.
"""

from dataclasses import dataclass

from training.average import AverageSettings
from training.checkpoint import CheckpointSettings
from training.compare import CompareSettings
from training.distributed import ProcessSettings
from training.guard import GuardSettings
from training.logging import LogSettings, WandbSettings
from training.loop import BatchSettings, EvalSettings


@dataclass
class ExperimentSettings(EvalSettings, CheckpointSettings, LogSettings):
    """`experiment`"""


@dataclass
class TrainingSettings(CompareSettings, WandbSettings, AverageSettings, GuardSettings, ProcessSettings, BatchSettings):
    """`training`"""
