"""Train one PELT method on one GLUE task; the same as `python -m minipelt train`.

    python train.py --task sst2 --method apl
    python train.py --help
"""

import sys

from minipelt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="python train.py"))
