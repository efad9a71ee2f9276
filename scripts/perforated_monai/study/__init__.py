"""The study: the same data, seeds and epochs for every arm, and a verdict by rule.

``study_file`` reads what to compare, ``arms`` says how the arms differ, ``runner`` makes every
trial a plain ``monai.bundle run``, ``collect`` turns what they leave into tables, ``statistics``
judges the differences, and ``report`` shows them.
"""
