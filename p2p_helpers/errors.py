"""Everything this package raises or warns of. All exceptions derive from `P2PError`."""


class P2PError(Exception):
    """The base of every exception of this package.

    Each message says what was wrong, what was expected, and what to try.
    """


class InputError(P2PError, ValueError):
    """An argument cannot be used."""


class PromptError(InputError):
    """Something is wrong with a prompt or with a word looked up in it."""


class PromptMismatch(PromptError):
    """Two prompts cannot be lined up as the edit asks."""


class ImageError(InputError):
    """A picture cannot be loaded."""


class InversionError(InputError):
    """An inversion cannot be made, loaded, or used with this pipeline."""


class SceneError(InputError):
    """A scene asks for something Toyland does not have."""


class AttentionControlError(P2PError, RuntimeError):
    """Attention cannot be controlled in this model or this run."""


class ModelError(P2PError, RuntimeError):
    """A model could not be loaded."""


class BatchError(P2PError, RuntimeError):
    """A batch cannot go on, as when its results cannot be written."""


class InputWarning(UserWarning):
    """An argument is taken as it stands, which may not be what was meant."""


class UnknownWordWarning(UserWarning):
    """A prompt has a word that the embedded model has never seen."""
