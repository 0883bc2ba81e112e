"""The papers' experiments, at any size: grids of runs, their tables beside the papers', and what was measured so far.

    grid.py      the command line of a sweep -> the list of its runs
    results.py   results.jsonl, a line a run: reading, appending, mending after a kill
    sweep.py     does the runs that are missing, in one process or shared over many
    numbers.py   what the paper reports
    tables.py    results -> means, upper bounds, gates against none, paired tests
    report.py    tables -> a report and CSV files; headtables.py has its part on frozen heads, markdown.py the format
    charts.py    tables -> figures, with matplotlib
    timing.py    the benchmark, and Table 4's times: with race.py, machine.py, peers.py
    growth.py    how the cost of a step grows with each size        flops.py     what a count on paper predicts
    gatestudy.py trained runs with constants in the place of their gates; gatetables.py, gatechart.py show what it gives
    figures/     the tutorial's figures, and the script that draws them
    results/     all runs measured so far with their reports; README.md says what they show
"""
