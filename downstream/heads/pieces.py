"""Sentencepiece units: subwords from a model that is trained on the training split."""

import base64
import io
import re
from collections.abc import Sequence

import sentencepiece

from mt4ssl_bench.errors import CorpusError, first_line
from mt4ssl_bench.settings import Json

NORMALIZATION = "identity"  # sentencepiece's rule for texts; references are not normalized
LONGEST = 4192  # bytes of a text, sentencepiece's default: it would leave longer ones out


class Pieces:
    """Units (heads.units.Units) of a trained model's bytes."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, texts: Sequence[str], size: int) -> "Pieces":
        """Return `size` units of the texts; raises CorpusError if the texts do not give as many."""
        model = io.BytesIO()
        longest = max((len(text.encode()) for text in texts), default=0)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=size,
                character_coverage=1.0,
                normalization_rule_name=NORMALIZATION,
                max_sentence_length=max(longest, LONGEST),
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = re.sub(r"^.*\] *", "", first_line(error)) or "no text, or no unit asked for"
            raise CorpusError(
                f"vocabulary={size}: does not fit the training text ({reason})"
            ) from None
        return cls(model.getvalue())

    @classmethod
    def restore(cls, model: Json) -> "Pieces":
        """Return the units of state()["model"]."""
        return cls(base64.b64decode(str(model)))

    def __len__(self) -> int:
        return int(self._processor.vocab_size()) + 1

    def __contains__(self, symbol: str) -> bool:
        """Return whether a decoded text can hold the symbol; every one can hold spaces."""
        ids = self._processor.encode(symbol)
        return symbol.isspace() or (bool(ids) and self._processor.unk_id() not in ids)

    def encode(self, text: str) -> list[int]:
        """See Units.encode."""
        unknown = self._processor.unk_id()
        return [i + 1 for i in self._processor.encode(text) if i != unknown]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without doubled spaces, as Characters do; others stay."""
        text = str(self._processor.decode([i - 1 for i in ids]))
        return re.sub(" +", " ", text).strip(" ")

    def state(self) -> dict[str, Json]:
        """See Units.state."""
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode()}
