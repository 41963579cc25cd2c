"""How good samples are: metrics, the protocol of an evaluation, classifiers, reports."""
