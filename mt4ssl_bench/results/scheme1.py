"""Scheme 1 of record identities (until revision 16264c9): all keys of one flat config, but for a
list.

A record of that time is found by the key that its evaluation would have had, and shares a column
with new records of the same settings. Nothing here changes any more.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from mt4ssl_bench.settings import Settings, flatten

DEFAULTS: Mapping[str, Any] = json.loads("""
{"about": "", "task": "",
 "head": {"projection": 256, "hidden": 1024, "lstm_layers": 2, "dropout": 0.2,
          "layer_norm": false, "spec_augment": false},
 "units": "characters", "vocabulary": 1000, "stress": "keep",
 "sweep": [0.1, 0.01, 0.001, 0.0001, 1e-05], "lr": null, "seeds": [0], "steps": 100000,
 "batch": 16, "accumulate": 1, "clip_norm": 1.0, "validate_every": 1000, "patience": 0,
 "crop_seconds": 8.0, "crops": 4, "test_crop_seconds": 0.0,
 "store": {"precision": "fp16", "limit_gb": 20.0}, "mode": "frozen",
 "tune": {"layer": "-1", "freeze_updates": 0, "head_lr": 1.0, "phases": [0.1, 0.4, 0.5],
          "final_scale": 0.05, "batch_seconds": 200.0, "dropout": 0.0, "attention_dropout": 0.0,
          "activation_dropout": 0.1, "layer_drop": 0.05, "time_prob": 0.65, "time_length": 10,
          "channel_prob": 0.5, "channel_length": 64, "workers": 0, "cache_hours": 1.0},
 "decode": {"lm": "", "lexicon": "", "beam": 5, "threshold": 25.0, "lm_weight": 2.0,
            "word_score": -1.0, "tune": false},
 "lexicon": "", "pronunciations": "first"}
""")
UNREAD: Mapping[str, str] = {  # that an evaluation of each mode left out
    "frozen": "mode tune",
    "finetune": "head store batch crops patience",
}
FLOOR = "task mode lr tune.workers tune.cache_hours"  # in recipes, and no setting of any task
NO_LSTM = "head.hidden head.lstm_layers head.dropout head.spec_augment"
NOT_OF: Mapping[str, str] = {  # keys in a recipe that its task did not read
    "asr": "stress crop_seconds crops test_crop_seconds",
    "phoneme": f"units vocabulary crop_seconds crops test_crop_seconds {NO_LSTM} "
    "decode.lexicon decode.word_score",
    "speaker": f"units vocabulary stress {NO_LSTM}",
}


def recipe(values: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return the recipe that a record had, and that its key is the digest of.

    Args:
        values: A config of today as nested plain containers; keys that were not there then are left
        out. files: Digests of the files that it names, by dotted key.
    """
    old = copy.deepcopy(dict(DEFAULTS))
    for key, value in flatten(values).items():
        _put(old, key, value)
    for key, digest in files.items():
        if not (key == "lexicon" and values.get(key) == "cmudict"):  # it stood by its name
            _put(old, key, digest)
    old["store"].pop("limit_gb")
    for name in ("about", "pronunciations", *UNREAD[old["mode"]].split()):
        old.pop(name)
    if not old["lexicon"]:
        old.pop("lexicon")
    if not old["decode"]["lm"]:
        old.pop("decode")
    return old


def lacking(values: Mapping[str, Any]) -> str:
    """Return why a key of this config did not say all that moves a score, or ""."""
    named = values.get("lexicon") == "cmudict"
    return "its identity does not say which CMUdict it was scored with" if named else ""


def settings(task: str, recipe: Mapping[str, Any]) -> Settings:
    """Return a record's settings as scheme 2 has them: what its task read and differs from the
    defaults.
    """
    values = flatten(recipe)
    if values.get("lr") is not None:
        values["sweep"] = [values["lr"]]
    dropped = {*FLOOR.split(), *NOT_OF.get(task, "").split()}
    if values.get("units") != "sentencepiece":
        dropped.add("vocabulary")
    if values.get("decode.tune"):
        dropped |= {"decode.lm_weight", "decode.word_score"}
    defaults = flatten(DEFAULTS)
    return {
        key: value
        for key, value in values.items()
        if key not in dropped and not (key in defaults and value == defaults[key])
    }


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key that the tree has already."""
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.get(section, {})
    if name in tree:
        tree[name] = value
