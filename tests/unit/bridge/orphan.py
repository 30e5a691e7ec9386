"""Run by test_vllm_plugin: python orphan.py PLUGIN. Starts a child as vLLM starts its engine core.

The child registers the plugin (loaded from its file, because its package imports torch), says
"ready" and would live for a minute; so does its parent, for the test to kill.
"""

import importlib.util
import multiprocessing
import os
import sys
import time

from vespo_openrlhf import workers


def live() -> None:
    spec = importlib.util.spec_from_file_location("plugin", sys.argv[1])
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    workers._LOOK_SECONDS = 0.05
    plugin.register()
    print(f"ready {os.getpid()}", flush=True)
    time.sleep(60)


if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=live).start()
    time.sleep(60)
