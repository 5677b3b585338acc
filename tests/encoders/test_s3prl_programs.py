"""s3prl's own programs on our checkpoint, in real processes.

The bridge that carries them over newer libraries.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from builders import write_run
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.s3prl_programs import _load, run
from mt4ssl_bench.errors import ConfigError

for needed in ("pandas", "librosa", "tensorboard", "tensorboardX", "editdistance", "sed_eval"):
    pytest.importorskip(needed, reason="s3prl's programs need the [s3prl] extra")


def start(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mt4ssl_bench", "s3prl", "--", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ
    )


@pytest.fixture(scope="module")
def phones(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as s3prl's phone_linear wants it: tables of files, lengths and one phone (the tone)
    per frame.
    """
    folder = tmp_path_factory.mktemp("phones")
    tones = {"L": 0, "OW": 0, "M": 1, "IH": 1, "D": 1, "HH": 2, "AY": 2}
    rows, labels, splits = [], [], {"train": [], "test": []}
    for name in ("train", "test"):
        for cut in corpus.cuts(name):
            frames = round(cut.duration * 100)  # s3prl's labels come every 10 ms
            spoken = [tones[phone] for phone in cut.supervisions[0].custom["phones"].split()]
            ids = [spoken[frame * len(spoken) // frames] for frame in range(frames)]
            file = Path(cut.recording.sources[0].source)
            rows.append((f"{file.stem}", file, frames))
            labels.append(f"{file.stem} {' '.join(map(str, ids))}")
            splits[name].append(file.stem)
    table = "".join(f"{i},{file},{frames}\n" for i, (_, file, frames) in enumerate(rows))
    (folder / "train-clean-100.csv").write_text(f",file_path,length\n{table}", encoding="utf-8")
    (folder / "converted_aligned_phones.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    for name, members in splits.items():
        (folder / f"{name}_split.txt").write_text("\n".join(members) + "\n", encoding="utf-8")
    write_run(folder, seed=3)
    data = {
        "train_batch_size": 2,
        "eval_batch_size": 2,
        "num_workers": 0,
        "libri_root": "/",
        "phone_path": str(folder),
    }
    settings = {
        "runner": {
            "total_steps": 6, "gradient_clipping": 1.0, "gradient_accumulate_steps": 1, "log_step": 3, "eval_step": 6,
            "save_step": 6, "max_keep": 1, "eval_dataloaders": ["test"],
        },
        "optimizer": {"name": "AdamW", "lr": 1e-2},
        "downstream_expert": {"datarc": {**data, "bucket_file": str(folder)}, "modelrc": {}},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


@pytest.mark.long
def test_run_downstream_trains_and_evaluates_on_our_checkpoint(phones: Path) -> None:
    common = ["--device", "cpu"]
    model = [
        "-u",
        "mt4ssl_local",
        "-k",
        "checkpoint.pt",
        "-d",
        "phone_linear",
        "-c",
        "config.yaml",
        "-p",
        "first",
    ]
    trained = start(phones, "-m", "train", *model, *common)
    assert trained.returncode == 0, trained.stderr[-2_000:]
    evaluated = start(phones, "-m", "evaluate", "-e", "first/states-6.ckpt", *common)
    assert evaluated.returncode == 0, evaluated.stderr[-2_000:]
    found = [
        re.search(r"libri_phone/test-\|step:\d+\|acc:([\d.]+)", done.stdout)
        for done in (trained, evaluated)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][1] == found[1][1]
    assert 0 < float(found[0][1]) < 1


def test_a_problem_that_does_not_exist_names_its_near_misses() -> None:
    with pytest.raises(ConfigError, match="no problem 'SuperbPH'; did you mean .*SuperbPR"):
        run(["SuperbPH"])


def test_the_audio_reader_gives_what_torchaudios_did(tmp_path: Path) -> None:
    stereo = torch.linspace(-0.5, 0.5, 200).view(100, 2)
    soundfile.write(tmp_path / "a.wav", stereo.numpy(), 8_000, subtype="FLOAT")
    whole, rate = _load(tmp_path / "a.wav")
    assert rate == 8_000
    torch.testing.assert_close(whole, stereo.t())
    part, _ = _load(str(tmp_path / "a.wav"), frame_offset=10, num_frames=5, channels_first=False)
    torch.testing.assert_close(part, stereo[10:15])
