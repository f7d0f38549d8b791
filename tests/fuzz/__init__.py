"""Random solves against 50 digits: ``python -m tests.fuzz --seconds 120 --seed 0``.

A case is drawn from its seed and index alone, so that one line repeats it: ``python -m tests.fuzz --replay 0:1234``.
`symmetric`, `closed` and `general` make matrices and know their powers; `exact` and `eigen` are the arithmetic under
them; `cases` draws the options; `verdict` holds the bars. `narrow` compares low precisions with the matrix before it
was rounded: ``python -m tests.fuzz --narrow --cases 20000``. `large` draws n = 33 to 259, alone and in mixed batches,
in every layout: ``python -m tests.fuzz --large --seconds 120``. `relatives` are all other functions, with
`--relatives`, and the optimizers, with `--optimizers`.
"""
