"""The tutorial's four figures, as SVG that reads well in light and dark mode, and the script that draws them.

    make.py       the command, and runs.jsonl: the runs that two of the figures show
    svg.py        text, boxes, lines and colours
    diagrams.py   layer.svg and prefix.svg: how the methods work
    measured.py   gates.svg and parameters.svg: what runs gave
"""
