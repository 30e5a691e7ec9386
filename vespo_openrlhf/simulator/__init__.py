"""The scheduler in simulated time: what a cluster yields, what a lag bound or a policy costs.

Standard library only. The scheduler is the real one of `scheduling`; engines and trainer are
speeds (workload.py) on one calendar (simulated_cluster.py). simulation.py makes a run and compares
it with the loops there are today, calibrate.py reads the speeds off a run that was trained, and
command.py is `python -m vespo_openrlhf.simulate`.
"""
