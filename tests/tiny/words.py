"""Words of the vocabulary of the tiny models."""

WORDS = """
    paris rome berlin madrid is was the a part capital city of france italy spain germany and river old new big small
    in on with people live there today many good bad day night sun moon cat dog house street one two three four five
""".split()  # noqa: SIM905 - a list of fifty literals reads worse
