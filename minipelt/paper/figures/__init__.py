"""The tutorial's figures, as SVG that reads well in light and dark mode, and the script that draws them.

    make.py       the command, and runs.jsonl: the runs that two of the figures show
    svg.py        text, boxes, lines and colours
    diagrams.py   layer.svg and prefix.svg: how the methods work
    lecture.py    bottleneck.svg, lora.svg and padding.svg: one idea each
    measured.py   gates.svg and parameters.svg: what runs gave
"""
