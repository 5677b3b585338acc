"""Scheme 1 of record identities (until revision 16264c9): almost all keys of one config.

A record of that time is found by the key that its evaluation would have had, and shares a column
with new records of the same settings. Nothing here changes any more.
"""

import json
from collections.abc import Mapping

from mt4ssl_bench.settings import Json, Settings, flatten, nest

DEFAULTS: Mapping[str, Json] = json.loads("""
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
UNREAD: Mapping[str, str] = {  # left out by an evaluation of each mode
    "frozen": "mode tune",
    "finetune": "head store batch crops patience",
}
FLOOR = "task mode lr tune.workers tune.cache_hours"  # in recipes, and no setting of any task
NO_LSTM = "head.hidden head.lstm_layers head.dropout head.spec_augment"
NOT_OF: Mapping[str, str] = {  # keys in a recipe that the task did not read
    "asr": "stress crop_seconds crops test_crop_seconds",
    "phoneme": f"units vocabulary crop_seconds crops test_crop_seconds {NO_LSTM} "
    "decode.lexicon decode.word_score",
    "speaker": f"units vocabulary stress {NO_LSTM}",
}


def recipe(values: Mapping[str, Json], files: Mapping[str, str]) -> dict[str, Json]:
    """Return the recipe of a record of scheme 1, of which its key is the digest.

    Args:
        values: A config of today as nested plain containers; new keys are left out.
        files: Digests of the files that it names, by dotted key.
    """
    old = flatten(DEFAULTS)
    old |= {key: value for key, value in flatten(values).items() if key in old}
    named = values.get("lexicon") == "cmudict"  # it stood by its name
    old |= {k: v for k, v in files.items() if k in old and not (named and k == "lexicon")}
    dropped = ["about", "pronunciations", "store.limit_gb", *UNREAD[str(old["mode"])].split()]
    dropped += [
        key for key, file in (("lexicon", "lexicon"), ("decode", "decode.lm")) if not old[file]
    ]
    return nest(
        {
            key: value
            for key, value in old.items()
            if not any(key == name or key.startswith(f"{name}.") for name in dropped)
        }
    )


def lacking(values: Mapping[str, Json]) -> str:
    """Return why the key of this config did not identify the scores, or ""."""
    named = values.get("lexicon") == "cmudict"
    return "its identity does not say which CMUdict it was scored with" if named else ""


def settings(task: str, recipe: Mapping[str, Json]) -> Settings:
    """Return the settings of scheme 2: values that the task read and that are no defaults."""
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
