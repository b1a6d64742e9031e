"""What goes wrong with a story itself."""


class ScenarioFailed(Exception):
    """The story could not be told to its end; str() says why."""

    exit_code = 1
