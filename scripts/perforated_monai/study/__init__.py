"""The study: the same data, seeds and epochs for every arm, and a verdict by rule.

``file`` reads what to compare, ``arms`` says how the arms differ, ``runner`` makes every trial a
plain ``monai.bundle run``, ``statistics`` compares, ``report`` shows.
"""
