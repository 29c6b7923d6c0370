"""The names of a checkpoint's items, the folders of arrays in it."""

# The network's variables, alone in what convert writes. In a run's checkpoint the others lie beside them: the state of
# the optimizer and, if the run has them, the moving average of the variables, and statistics computed for evaluation.
VARIABLES = "variables"
AVERAGE = "average"
JUDGED = "judged"
OPTIMIZER = "optimizer"
# How often a run's latest step is looked for while the run removes the one that was found.
NUM_LOOKS = 5
