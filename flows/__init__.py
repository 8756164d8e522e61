"""Prefect flows: when and how the pipeline runs. What is stale is DVC's to decide.

A flow run uses the code of its own workspace, whatever is installed beside it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
