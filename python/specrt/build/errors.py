"""The one exception of the builder."""


class BuildError(ValueError):
    """A model that cannot be built, or an engine or bundle that is damaged.

    The text names what was wrong and what to do about it.
    """

    status = 1  # exit status of the command line
