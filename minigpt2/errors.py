"""The ways in which a model cannot be had. All messages say what was wrong and what to do."""


class CheckpointError(ValueError):
    """A checkpoint, or what was asked of it, cannot be used."""


class VocabularyError(ValueError):
    """A vocabulary's files cannot be used."""


class HubError(OSError):
    """A model could not be fetched from the Hugging Face Hub."""


def brief(value):
    """What a stranger's file holds, or what was wrong with it, in one printable line that is not too long."""
    text = " ".join(str(value).split()) if isinstance(value, Exception) else repr(value)
    text = text if len(text) <= 120 else f"{text[:120]}..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
