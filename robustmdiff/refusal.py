"""The one class of error that means: what was given cannot be used."""


class Refusal(ValueError):
    """What the user gave (a file, a folder, a value, an option) cannot be used.

    Its message is one sentence that names it, its value and what was expected; where several things are
    wrong, each is a sentence of its own (`args`). The command line prints these alone and ends with exit
    code 2; any other error is ours and shows where it came from.
    """

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))
