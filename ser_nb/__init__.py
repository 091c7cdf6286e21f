"""Emotional speech, recognised and converted: the reference implementation of five published systems, on one data path.

`load_corpus`, `functionals`, `audit`, `load`, `predict`, `load_converter` and `convert` are handed out from their modules when they are first used."""
__version__ = "0.1.0"

_HANDED_OUT = dict(load_corpus="data.readers", audit="data.audit", functionals="features.functionals", load="prediction", predict="prediction", predict_files="prediction",
                   load_converter="conversion", convert="conversion")
__all__ = ["__version__", *_HANDED_OUT]


def __getattr__(name):
    if name not in _HANDED_OUT: raise AttributeError(f"module 'ser_nb' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"ser_nb.{_HANDED_OUT[name]}"), name)


def __dir__(): return sorted(__all__)
