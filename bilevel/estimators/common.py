"""What the estimators share."""


def rounded(size: int, least: int) -> int:
    """A length that many sizes share, so that they share programs: `least`, or up to a sixteenth more than `size`."""
    unit = max(least, 2 ** max(0, (size - 1).bit_length() - 4))
    return -(-size // unit) * unit
