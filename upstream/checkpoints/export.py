"""Export of the encoder for s3prl and Hugging Face, with a model card."""

import json
import shutil
from pathlib import Path

import mt4ssl_bench
from mt4ssl_bench import checkpoint
from mt4ssl_bench.errors import CheckpointError, ConfigError
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import load_all
from mt4ssl_bench.text import markdown
from mt4ssl_bench.upstream.checkpoints.checkpoint_file import Stored, read_student
from mt4ssl_bench.upstream.checkpoints.encoder_adapter import (
    MT4SSLUpstream,
    fingerprint,
    is_pretrained,
)
from mt4ssl_bench.upstream.recipe import from_stored

# keys of a checkpoint that an export keeps, beside the weights
EXPORTED = ("kind", "config", "corpus_digest", "step", "validations", "source")

CARD = """---
library_name: transformers
tags: [speech, self-supervised-learning, mt4ssl]
---

# {title}

The encoder of an [MT4SSL](https://arxiv.org/abs/2211.07321) model: the student, without the
heads and the teacher that
trained it. It is a `Data2VecAudioModel`, whose architecture is MT4SSL's.

| | |
|---|---|
{facts}

## Use

```python
from transformers import AutoFeatureExtractor, AutoModel

extractor = AutoFeatureExtractor.from_pretrained({name})
model = AutoModel.from_pretrained({name}).eval()
inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")  # one utterance, (samples,)
hidden_states = model(**inputs, output_hidden_states=True).hidden_states
```

Run utterances one by one, or equally long ones together: in a padded batch this class lets
padding into an utterance's
last frames through its positional convolutions."""


def to_s3prl(run: Path, out: Path, *, half: bool = False) -> str:
    """Write a file with only the student, for load_upstream and s3prl's mt4ssl_local.

    The weights are fp32, or fp16 if `half`.

    Returns:
        The student's fingerprint.

    Raises:
        CheckpointError: If `run` is no MT4SSL checkpoint, or `out` exists.
    """
    if out.suffix not in {".pt", checkpoint.SAFETENSORS}:
        raise ConfigError(f"--out {out}: the file's name must end in .pt or .safetensors")
    if out.exists():
        raise CheckpointError(f"{out}: exists already; choose another --out")
    model, stored = read_student(run)
    exported = {key: value for key, value in stored.items() if key in EXPORTED}
    state = (model.half() if half else model).state_dict()
    checkpoint.save({**exported, "model": state}, out)
    return fingerprint(model.config, model.float().state_dict())


def to_huggingface(run: Path, out: Path, results: Path | None = None) -> str:
    """Write a folder that transformers' AutoModel and AutoFeatureExtractor load.

    Args:
        run: Run folder or checkpoint file.
        out: A new or empty folder.
        results: Records; those of this model go into the model card.

    Returns:
        The student's fingerprint.

    Raises:
        CheckpointError: If `run` is no MT4SSL checkpoint, or `out` is not empty.
        ConfigError: If `results` holds no record of this model.
    """
    from mt4ssl_bench.upstream.checkpoints.hf_data2vec import write_huggingface

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; choose another --out")
    model, stored = read_student(run)
    upstream = MT4SSLUpstream(model, run.name, "cpu", pretrained=is_pretrained(stored))
    mark = upstream.fingerprint
    records = [
        record
        for record in (load_all(results) if results is not None else [])
        if record.upstream["fingerprint"] in {mark, *upstream.former}
    ]
    if results is not None and not records:
        raise ConfigError(
            f"--results {results}: no record of this model ({mark}); run mt4ssl-bench evaluate "
            f"{run}"
        )
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write_huggingface(model, aside)
        (aside / "README.md").write_text(
            card(out.name, stored, mark, upstream.parameters, records), encoding="utf-8"
        )
        aside.replace(out)
    except OSError as error:
        raise CheckpointError(f"{out}: could not be written ({error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return mark


def card(name: str, stored: Stored, mark: str, parameters: int, records: list[Result]) -> str:
    """Return the model card: architecture, use, origin, validation losses and results."""
    config, source = from_stored(stored["config"]), stored.get("source")
    encoder = config.encoder
    facts = {
        "encoder": f"{encoder.layers} layers of {encoder.dim}, {encoder.heads} heads, one frame "
        "per 20 ms",
        "parameters": f"{parameters:,}",
        "input": f"16 kHz mono, {'normalized' if config.frontend.normalize else 'not normalized'}",
        "updates": stored.get("step") or (source and source["updates"]) or "not recorded",
        "digest of the corpus": stored.get("corpus_digest", "not recorded"),
        "fingerprint": mark,
        "written by": f"mt4ssl-bench {mt4ssl_bench.__version__}",
    }
    if source:
        facts["converted from"] = f"{source['name']} ({source['kind']})"
    sections = [
        CARD.format(
            title=markdown(name),
            name=json.dumps(name),  # a string of Python, too
            facts="\n".join(f"| {key} | {markdown(str(value))} |" for key, value in facts.items()),
        )
    ]
    if stored.get("validations"):
        sections.append("## Validation losses\n\n" + _table(stored["validations"]))
    if records:
        sections.append("## Results\n\n" + Leaderboard(records).to_markdown().strip())
    sections.append(f"## Recipe\n\n```json\n{json.dumps(stored['config'], indent=1)}\n```")
    return "\n\n".join(sections) + "\n"


def _table(rows: list[dict[str, float]]) -> str:
    """Return about ten of the validations, the last one included, as a Markdown table."""
    shown = rows[:: -(-len(rows) // 10)]
    if shown[-1] is not rows[-1]:
        shown.append(rows[-1])
    heads = list(dict.fromkeys(head for row in rows for head in row))  # ABX may come later
    lines = ["| " + " | ".join(heads) + " |", "|" + "--:|" * len(heads)]
    lines += ["| " + " | ".join(_cell(row, head) for head in heads) + " |" for row in shown]
    return "\n".join(lines)


def _cell(row: dict[str, float], head: str) -> str:
    return f"{row[head]:.6g}" if head in row else ""
