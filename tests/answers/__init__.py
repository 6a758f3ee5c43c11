"""Answers to the exercises, a module for each notebook.

RIGHT: id of the check → an answer that passes. WRONG: (id, answer, words of what is said to it).
Where a check takes a tuple, its first part is what the learner writes.
"""
