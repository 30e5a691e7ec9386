"""What other losses would have made of the samples that a run was trained on.

`flags` says what of the run's flags goes to a training from its recording, `cells` which trainings
there are, `running` does them one after another, `accuracy` evaluates their models, `table` puts
them side by side; `python -m vespo_openrlhf.replay RUN` is the command.
"""
