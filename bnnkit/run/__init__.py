"""The glue of the commands: training, evaluation, timing, checks, gates and reports."""
