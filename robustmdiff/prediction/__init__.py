"""Answers about many patients: shared among processes or machines, and resumed after a kill.

answering   what is asked of each batch, wherever it is computed
question    what the answers depend on, as it is compared before a resume
parts       the answers so far, in a folder beside the file that they are for
processes, with_ray   who computes: processes of this machine, or Ray's workers
to_parquet  all of it in one call
"""
