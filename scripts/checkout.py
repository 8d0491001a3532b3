"""Puts the checkout first where Python looks for modules, as it is for train.py; scripts import this before `moex`.

So they run the package that lies beside them, whatever else of that name is installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
