"""Emotional speech, recognised and converted: the reference implementation of five published systems, on one data path.

`load_corpus`, `functionals`, `audit`, `load`, `predict`, `load_model`, `stream`, `load_converter` and `convert` are handed out from their modules when they are first used.
Saved classifiers of `ser_nb.models.ssl_classifier` are known to transformers' auto classes and pipelines; their code is loaded with the first of them."""
import sys
from importlib.machinery import PathFinder

__version__ = "0.1.0"

_HANDED_OUT = dict(load_corpus="data.readers", audit="data.audit", functionals="features.functionals", load="prediction", predict="prediction", predict_files="prediction",
                   load_model="pictures", stream="streaming", load_converter="conversion", convert="conversion")
__all__ = ["__version__", *_HANDED_OUT]


def __getattr__(name):
    if name not in _HANDED_OUT: raise AttributeError(f"module 'ser_nb' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"ser_nb.{_HANDED_OUT[name]}"), name)


def __dir__(): return sorted(__all__)


class _Classifier:
    "Stands for the configuration of saved classifiers until there is one; loading its module registers the real one, and the model"
    @classmethod
    def from_dict(cls, *args, **kwargs):
        from ser_nb.models.ssl_classifier import SSLClassifierConfig
        return SSLClassifierConfig.from_dict(*args, **kwargs)


class _WhenLoaded:
    "Registers it with transformers' configurations as soon as these are imported"
    NAME = "transformers.models.auto.configuration_auto"

    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name == self.NAME else None
        if spec is None: return None
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), self.register(module))
        return spec

    def register(self, module): module.AutoConfig.register("ser_nb_ssl_classifier", _Classifier)


if _WhenLoaded.NAME in sys.modules: _WhenLoaded().register(sys.modules[_WhenLoaded.NAME])
else: sys.meta_path.insert(0, _WhenLoaded())
