"""The drafters, behind one protocol; a session can combine any of them."""

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters.draft_model import DraftModel, summon
from adaspec_rl.decoding.drafters.drafter import Drafter, Stop
from adaspec_rl.decoding.drafters.early_exit import EarlyExit
from adaspec_rl.decoding.drafters.hidden_state import HiddenStateDrafter
from adaspec_rl.decoding.drafters.ngram import NgramLookup
from adaspec_rl.decoding.drafters.offloading import Offloading
from adaspec_rl.decoding.drafters.table import TableDrafter

__all__ = [
    "Draft",
    "DraftModel",
    "Drafter",
    "EarlyExit",
    "HiddenStateDrafter",
    "NgramLookup",
    "Offloading",
    "Stop",
    "TableDrafter",
    "summon",
]
