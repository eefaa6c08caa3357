"""Layers, the rules for hooks, and the bound calls."""

from __future__ import annotations

from functools import partial, wraps
from types import ModuleType, SimpleNamespace

import pytest

from omni_rl import hookimpl
from omni_rl.errors import PluginError
from omni_rl.plugins.contract import SPECS
from omni_rl.plugins.discovery import find, load
from omni_rl.plugins.manager import Answer, Hooks, Layer, answers, build_manager, diffuse_reason, overridden

PREDICT = {"model": None, "x": 2, "t": 3, "conditioning": None, "call": None, "step": None}
LAYERS = ["core", "model", "algorithm", "pair", "local"]


def plugin(*functions, **named):
    return SimpleNamespace(**{function.__name__: function for function in functions}, **named)


def answering(hook, value, **options):
    def answer():
        return value

    answer.__name__ = hook
    return plugin(hookimpl(answer, **options))


def refused(*layers) -> str:
    with pytest.raises(PluginError) as caught:
        build_manager(layers)
    return str(caught.value)


def hooks(*layers) -> Hooks:
    return Hooks(build_manager(layers))


def call(hooks, hook):
    return getattr(hooks, hook)(**dict.fromkeys(SPECS[hook].arguments))


# ------------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("top", range(len(LAYERS)))
def test_the_most_specific_layer_answers_in_whatever_order_they_are_given(top):
    layers = [Layer(name, answering("predict", name), name) for name in LAYERS[: top + 1]]
    assert call(hooks(*layers), "predict") == LAYERS[top]
    assert call(hooks(*reversed(layers)), "predict") == LAYERS[top]


def test_none_passes_to_the_next_less_specific_layer():
    bound = hooks(
        Layer("core", answering("predict", "core"), "omni-rl 1"),
        Layer("model", answering("predict", None), "m 1"),
        Layer("local", answering("predict", None), "f.py"),
    )
    assert call(bound, "predict") == "core"


def test_other_hooks_answer_in_layer_order():
    layers = [Layer(name, answering("defaults", {name: 1}), name) for name in (*LAYERS[::-1],)]
    assert hooks(*layers).defaults(architecture="X") == [{name: 1} for name in LAYERS]


def test_other_hooks_answer_an_empty_list_when_nobody_implements_them():
    assert hooks().defaults(architecture="X") == []


def test_two_observers_may_watch_the_same_event():
    seen = []

    def watching(name):
        def on_run_start(run):
            seen.append((name, run))

        return plugin(hookimpl(on_run_start))

    hooks(Layer("observer", watching("a"), "a 1"), Layer("observer", watching("b"), "b 1")).on_run_start(run="r")
    assert sorted(seen) == [("a", "r"), ("b", "r")]


# --------------------------------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize("alone", [True, False])
def test_an_implementation_receives_only_the_arguments_it_names(alone):
    @hookimpl
    def predict(t, x):
        return (x, t)

    layers = [
        Layer("core", plugin(predict), "c"),
        *([] if alone else [Layer("model", answering("predict", None), "m")]),
    ]
    assert hooks(*layers).predict(**PREDICT) == (2, 3)


def test_arguments_with_defaults_methods_and_static_methods_are_called_alike():
    class Plugin:
        @hookimpl
        def predict(self, x, t=5):
            return (x, t)

        @staticmethod
        @hookimpl
        def compute_loss(steps):
            return steps

        @classmethod
        @hookimpl
        def sde_window(cls, steps):
            return (cls.__name__, steps)

    bound = hooks(Layer("algorithm", Plugin(), "a 1"))
    assert bound.predict(**PREDICT) == (2, 3)
    assert bound.compute_loss(policy=None, batch=None, steps=7) == 7
    assert bound.sde_window(iteration=0, group=0, steps=9, seed=0) == ("Plugin", 9)


def test_a_decorated_hook_is_called_through_its_decorator():
    def doubled(function):
        @wraps(function)
        def wrapper(*arguments):
            return 2 * function(*arguments)

        return wrapper

    @hookimpl
    @doubled
    def predict(x):
        return x

    assert hooks(Layer("model", plugin(predict), "m")).predict(**PREDICT) == 4


@pytest.mark.parametrize("given", [{**PREDICT, "latents": 1}, {"x": 2}])
def test_a_call_must_name_the_arguments_of_the_hook(given):
    with pytest.raises(AssertionError, match=r"predict\(model, x, t, conditioning, call, step\)"):
        hooks(Layer("core", answering("predict", 1), "c")).predict(**given)


def test_an_unknown_hook_cannot_be_called():
    with pytest.raises(AttributeError, match="predcit"):
        hooks().predcit()


def test_nobody_answering_is_an_error_that_names_who_was_asked():
    bound = hooks(
        Layer("core", answering("predict", None), "omni-rl 1"), Layer("model", answering("predict", None), "m 2")
    )
    with pytest.raises(PluginError, match="No plugin answered the hook 'predict': m 2, omni-rl 1 returned None"):
        call(bound, "predict")
    with pytest.raises(PluginError, match="no plugin of this run implements it"):
        call(bound, "compute_loss")


def test_one_implementation_that_passes_is_an_error_too():
    with pytest.raises(PluginError, match="No plugin answered the hook 'predict': m 2 returned None"):
        call(hooks(Layer("model", answering("predict", None), "m 2")), "predict")


def test_two_runs_do_not_share_plugins():
    first = build_manager([Layer("core", answering("predict", 1), "c")])
    second = build_manager([Layer("core", answering("predict", 2), "c")])
    assert (call(Hooks(first), "predict"), call(Hooks(second), "predict")) == (1, 2)


# ------------------------------------------------------------------------------------------------------------ wrappers


@hookimpl(wrapper=True, specname="predict")
def negated():
    result = yield
    return -result


def test_a_wrapper_changes_the_result_of_the_layers_below():
    bound = hooks(Layer("core", answering("predict", 4), "c"), Layer("algorithm", plugin(negated), "a"))
    assert call(bound, "predict") == -4


def test_a_lone_wrapper_still_wraps():
    @hookimpl(wrapper=True, specname="predict")
    def constant():
        assert (yield) is None
        return 5

    assert call(hooks(Layer("model", plugin(constant), "m")), "predict") == 5


def test_a_wrapper_that_loses_the_list_is_named():
    @hookimpl(wrapper=True)
    def defaults():
        yield

    with pytest.raises(PluginError, match=r"'defaults' returned None(?s:.)*forgetful 1"):
        hooks(Layer("model", plugin(defaults), "forgetful 1")).defaults(architecture="X")


def test_core_registers_no_wrapper():
    with pytest.raises(AssertionError, match="core registers no wrapper"):
        build_manager([Layer("core", plugin(negated), "c")])


def returning():
    return 1


def yielding():
    yield


@pytest.mark.parametrize(
    ("function", "options", "problem"),
    [
        (returning, {"wrapper": True}, "never yields, but is marked as a wrapper."),
        (yielding, {}, "yields, but is not marked as a wrapper."),
        (yielding, {"hookwrapper": True}, "yields, but is marked as a wrapper of the old style."),
    ],
)
def test_wrappers_yield_and_nothing_else_does(function, options, problem):
    text = refused(Layer("model", plugin(predict=hookimpl(function, **options)), "m 1"))
    assert problem in text
    assert "@hookimpl(wrapper=True)" in text


# ------------------------------------------------------------------------------------------------------------- refusals


def fake(install, name, kind, key):
    install(name)
    offer = find(kind, key)
    found = load(offer)
    return Layer("model", found() if isinstance(found, type) else found, offer.source)


def test_a_misspelt_hook_is_refused_with_its_place_and_the_nearest_name(install):
    text = refused(fake(install, "misspelt", "models", "MisspeltPipeline"))
    assert "omni-rl-fake-misspelt 1.0: `fake_misspelt.predcit`" in text
    assert "fake_misspelt.py:6" in text
    assert "Did you mean 'predict'?" in text


def test_an_unmarked_function_with_a_hook_s_name_is_refused(install):
    text = refused(fake(install, "unmarked", "models", "UnmarkedPipeline"))
    assert "omni-rl-fake-unmarked 1.0: `fake_unmarked.decode_latents`" in text
    assert "fake_unmarked.py:4) has the name of a hook but no hookimpl marker" in text
    assert "@omni_rl.hookimpl" in text


def test_tryfirst_is_refused(install):
    text = refused(fake(install, "tryfirst", "algorithms", "fake_tryfirst"))
    assert "omni-rl-fake-tryfirst 1.0: `fake_tryfirst.Algorithm.compute_loss`" in text
    assert "core < model < algorithm < pair < local files" in text


def test_trylast_is_refused():
    assert "tryfirst or trylast" in refused(Layer("model", answering("predict", 1, trylast=True), "m"))


@pytest.mark.parametrize("code", ["def predict(x, latent): pass", "def predict(x, latent=1): pass"])
def test_an_unknown_argument_is_refused_with_the_correct_signature(code):
    namespace = {"__name__": "somewhere"}
    exec(compile(code, "/plugins/somewhere.py", "exec"), namespace)
    text = refused(Layer("model", plugin(hookimpl(namespace["predict"])), "m 1"))
    assert (
        "m 1: `somewhere.predict` (/plugins/somewhere.py:1) has the argument 'latent', but the hook 'predict' does not"
        in text
    )
    assert "The hook is predict(model, x, t, conditioning, call, step)" in text


def test_arguments_that_pluggy_cannot_fill_are_refused():
    def starred(**arguments):
        return 1

    def keyword_only(*, x):
        return x

    for function in (starred, keyword_only):
        text = refused(Layer("model", plugin(hookimpl(function, specname="predict")), "m 1"))
        assert "must be plain parameters" in text


def test_a_hook_that_is_no_plain_function_is_refused():
    assert "Put @omni_rl.hookimpl above a plain `def`" in refused(
        Layer("model", plugin(predict=partial(max, 1)), "m 1")
    )


def test_attributes_that_are_not_functions_may_bear_any_name():
    assert overridden(build_manager([Layer("model", plugin(defaults={"a": 1}), "m 1")])) == set()


@pytest.mark.parametrize("layer", LAYERS)
def test_two_plugins_of_one_layer_may_not_answer_one_hook(layer):
    text = refused(Layer(layer, answering("predict", 1), "./a.py"), Layer(layer, answering("predict", 2), "./b.py"))
    assert f"Two plugins of the {layer} layer answer the hook 'predict'" in text
    assert "./a.py with" in text
    assert "./b.py with" in text


def test_one_plugin_may_not_answer_one_hook_twice():
    @hookimpl(specname="predict")
    def other():
        return 1

    assert "Two plugins" in refused(Layer("model", plugin(other, predict=answering("predict", 2).predict), "m 1"))


def test_a_plugin_that_is_listed_twice_is_refused():
    same = answering("predict", 1)
    assert "./a.py is listed twice" in refused(Layer("local", same, "./a.py"), Layer("local", same, "./a.py"))


def test_an_observer_may_only_watch():
    text = refused(Layer("observer", answering("predict", 1), "watcher 1"))
    assert "watcher 1" in text
    assert "on_iteration_end" in text
    assert "compute_loss" not in text


def test_overriding_the_loop_needs_a_reason():
    def diffuse(model, requests):
        return []

    assert 'diffuse.reason = "a sentence"' in refused(Layer("model", plugin(hookimpl(diffuse)), "m 1"))
    diffuse.reason = "The pipeline samples in one step."
    manager = build_manager([Layer("core", answering("diffuse", 1), "c"), Layer("model", plugin(diffuse), "m 1")])
    assert diffuse_reason(manager) == "The pipeline samples in one step. (m 1)"


def test_core_s_loop_needs_no_reason():
    assert diffuse_reason(build_manager([Layer("core", answering("diffuse", 1), "c")])) is None


# -------------------------------------------------------------------------------------------------------------- explain


def test_answers_name_the_object_and_the_distribution(install):
    install("good")
    offer = find("models", "FakePipeline")
    manager = build_manager(
        [
            Layer("core", answering("predict", 1), "omni-rl 0.1"),
            Layer("model", load(offer), offer.source),
            Layer("algorithm", plugin(negated), "a 1"),
        ]
    )
    assert answers(manager) == [
        Answer("defaults", "omni-rl-fake-good 1.0", "fake_good.defaults", "answers"),
        Answer("predict", "a 1", f"{__name__}.negated", "wraps"),
        Answer("predict", "omni-rl-fake-good 1.0", "fake_good.predict", "answers"),
    ]


def test_answers_list_everybody_who_is_asked_when_all_answers_count():
    manager = build_manager(
        [Layer("model", answering("defaults", {}), "m"), Layer("pair", answering("defaults", {}), "p")]
    )
    assert [(each.hook, each.source) for each in answers(manager)] == [("defaults", "p"), ("defaults", "m")]


def test_overridden_names_the_hooks_that_a_layer_above_core_touches():
    manager = build_manager(
        [
            Layer("core", answering("predict", 1), "c"),
            Layer("core", answering("tokenize", 1), "c"),
            Layer("model", plugin(negated), "m"),
            Layer("local", answering("decode_latents", 1), "f.py"),
        ]
    )
    assert overridden(manager) == {"predict", "decode_latents"}


def test_a_module_is_a_plugin():
    module = ModuleType("some_plugin")
    module.predict = answering("predict", 6).predict
    assert call(hooks(Layer("local", module, "some_plugin.py")), "predict") == 6
