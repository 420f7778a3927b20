"""What a user can get wrong, said in one sentence."""


class UserError(Exception):
    """Something a user can put right: the message is one sentence with what, where and what to do.

    `run.py` prints the message without a traceback and exits with 2. Anything else is a bug and keeps its traceback.
    """
