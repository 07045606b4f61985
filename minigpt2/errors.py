"""Why a model could not be loaded. All messages say what was wrong and what to do."""


class CheckpointError(ValueError):
    """A checkpoint, or what was asked of it, cannot be used."""


class VocabularyError(ValueError):
    """A vocabulary's files cannot be used."""


class HubError(OSError):
    """A model could not be fetched from the Hugging Face Hub."""
