"""One small typed model per command; TOML file and flags fill it, flags win. Imports no torch.

A key that no field knows dies naming the nearest one. Nothing here rewrites another value:
derived numbers are plain functions next to their use.
"""

from tunesmith.settings.aihelp import JudgeSettings, ReviseSettings
from tunesmith.settings.common import AdapterKind, Consensus, Lora, Optimization, Settings
from tunesmith.settings.curation import (
    CurveSettings,
    DecontaminateSettings,
    DedupeSettings,
    GenerateSettings,
    HealthSettings,
)
from tunesmith.settings.data import CollectSettings, ImportSettings, MigrateSettings
from tunesmith.settings.evaluation import EvaluateSettings, QuickstartSettings
from tunesmith.settings.interactions import InteractionsSettings
from tunesmith.settings.library import MergeSettings, TransferSettings
from tunesmith.settings.mining import MineSettings, OverlapSettings
from tunesmith.settings.mixing import MixSettings
from tunesmith.settings.preference import PreferSettings
from tunesmith.settings.rounds import RoundCommand, RoundSettings
from tunesmith.settings.serving import Served, ServeSettings, StudioSettings, WorkSettings
from tunesmith.settings.training import PpoSettings, RewardSettings, SftSettings

__all__ = [
    "AdapterKind", "CollectSettings", "Consensus", "CurveSettings", "DecontaminateSettings", "DedupeSettings",
    "EvaluateSettings", "GenerateSettings", "HealthSettings", "ImportSettings", "InteractionsSettings",
    "JudgeSettings", "Lora", "MergeSettings", "MigrateSettings", "MineSettings", "MixSettings", "Optimization",
    "OverlapSettings", "PpoSettings", "PreferSettings", "QuickstartSettings", "ReviseSettings", "RewardSettings",
    "RoundCommand", "RoundSettings", "ServeSettings", "Served", "Settings", "SftSettings", "StudioSettings",
    "TransferSettings", "WorkSettings",
]
