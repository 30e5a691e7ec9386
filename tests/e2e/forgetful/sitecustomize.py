"""An engine to which part of every update does not arrive, without an error anywhere.

Every Python process of a run finds this file through PYTHONPATH and loads it first. It stands for
experts that vLLM keeps in a layout of its own: the weights come, are taken, and change nothing.
"""

import os

if os.environ.get("VESPO_TEST_FORGETS"):
    import wrapt

    def forget(module):
        upstream = module.WeightReceiver.receive_weights

        def receive_weights(self, *bucket):
            if self._verification:  # to which all of it comes
                return upstream(self, *bucket)
            model = self.model_runner.model
            load = model.load_weights
            model.load_weights = lambda weights: load(
                [(name, weight) for name, weight in weights if ".mlp." not in name]
            )
            try:
                return upstream(self, *bucket)
            finally:
                del model.load_weights

        module.WeightReceiver.receive_weights = receive_weights

    wrapt.register_post_import_hook(forget, "vespo_openrlhf.bridge.weights.receiver")
