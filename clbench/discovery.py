"""Find methods: the modules in `plugins/`, the entry-point group `clbench`, and the files given with `--plugin`."""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from clbench import hookspecs
from clbench.about import About, about_of
from clbench.data.answer_scores import METRICS, Metric
from clbench.errors import ClbenchError, ClbenchWarning, blame, unknown
from clbench.names import match
from clbench.options import Option, list_options, restore, settle, with_upper_bounds
from clbench.settings import list_settings

# What papers call methods of ours, where it is more than another spelling.
PRINTED = {
    "Recurrent-KIF": "rkif",
    "Fine-tuning": "seqlora",
    "MixReplay": "lorareplay",
    "DER++": "derpp",
    "Slow SuRe": "sure",
    "TasLoRA": "tasl",
    "SAPT-LoRA": "sapt",
}
HOOKS = ("methods", "metrics", "run_stream", "attach", "learn_task", "evaluate", "train_step", "run_ended")


@dataclass(frozen=True)
class Method:
    """A method on offer: what builds it, and the plugin (module or file) that offers it."""

    name: str
    factory: Callable[..., Any]
    origin: str

    @property
    def summary(self) -> str:
        """The first line of the callable's docstring."""
        return (inspect.getdoc(self.factory) or "").strip().split("\n")[0]

    @cached_property
    def options(self) -> dict[str, Option]:
        """The method's options by name.

        Raises:
            ClbenchError: one of them declares what cannot be offered.
        """
        return with_upper_bounds(list_options(self.factory))

    @cached_property
    def about(self) -> About:
        """What the method declares of itself.

        Raises:
            ClbenchError: the declaration does not fit the options.
        """
        return about_of(self.factory, self.options)

    def resolve_options(self, given: Mapping[str, Any], preset: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the value of every option: given by the user, else the variant's, else the preset's, else the default.

        Options without effect keep their defaults.

        Raises:
            ClbenchError: no such option or variant, a bad value, an option without default was not given, or a given one has no
                effect beside the others.
        """
        for name in given:
            if name not in self.options and name != "variant" and name in list_settings():
                flag = f"--{name.replace('_', '-')}"
                raise ClbenchError(f"'{name}' is a setting, no option of method '{self.name}': {flag} {given[name]}")
        given, variants = dict(given), self.about.variants
        chosen: Mapping[str, Any] = {}
        if variants and "variant" in given:
            variant = given.pop("variant")
            if variant not in variants:
                raise unknown(f"variant of method '{self.name}':", variant, variants)
            chosen = variants[variant]
        return settle(self.options, given, {**(preset or {}), **chosen}, f"method '{self.name}'")

    def build(self, options: Mapping[str, Any]) -> object:
        """Return a new instance of the method; options that are not named have their defaults.

        Raises:
            ClbenchError: an option's value is none that it takes, or the method refuses the options.
        """
        values = restore(self.options, options, f"method '{self.name}'")
        module = inspect.getmodule(self.factory)
        with blame(
            f"method '{self.name}' ({self.origin}) refuses its options", None if module is None else module.__file__
        ):
            return self.factory(**values)

    def budget(self, options: Mapping[str, Any], rows: int, labels: int) -> int:
        """Return how many training rows of a task, which has so many rows and labels, the method may keep."""
        memory = self.about.memory
        if memory is None or self.options[memory.option].obstacle(options) is not None:
            return 0
        return memory.budget(options[memory.option], rows, labels)

    def remembers(self, options: Mapping[str, Any], rows: int) -> bool:
        """Return whether the method keeps any of a task's rows, of which there are so many."""
        return self.budget(options, rows, 1) > 0 and not self.remembers_nothing(options, rows)

    def remembers_nothing(self, options: Mapping[str, Any], rows: int) -> bool:
        """Return whether the method is to have a memory, and yet keeps nothing of a task with so many rows."""
        memory = self.about.memory
        if memory is None or self.options[memory.option].obstacle(options) is not None:
            return False
        return memory.keeps_nothing(options[memory.option], rows)

    def enlarge_memory(self, options: Mapping[str, Any], wanted: int, rows: int) -> dict[str, Any]:
        """Return the options with a memory, if there is one, that holds the wanted rows of a task with so many rows."""
        if not self.budget(options, rows, 1):  # a ratio of few rows may be less than one row
            return dict(options)
        memory = self.about.memory
        assert memory is not None  # there is a budget
        return {**options, memory.option: memory.enlarged(options[memory.option], wanted, rows)}

    def facts(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the record says of the method, for reports, which know no plugins."""
        about = self.about
        return {
            "upper_bound": about.upper_bound,
            "learns_plainly": about.learns_plainly,
            "learning_rate": None if about.learning_rate is None else options[about.learning_rate],
        }


@dataclass(frozen=True)
class Plugins:
    """What discovery found: the methods and metrics on offer by name, every plugin module by its origin.

    Attributes:
        broken: why installed plugins were passed over.
        given: the origins of the plugins that were given as files.
    """

    methods: Mapping[str, Method]
    modules: Mapping[str, ModuleType]
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    broken: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def method(self, name: str) -> Method:
        """Return a method by its name, or by what papers call it, whatever the case and punctuation: 'Recurrent-KIF'.

        Raises:
            ClbenchError: nobody offers that name.
        """
        found = match(name, self.methods, PRINTED)
        if found is None:
            empty = [origin for origin in self.given if origin not in {one.origin for one in self.methods.values()}]
            also = [*self.broken, *(f"plugin {origin} offers no method" for origin in empty)]
            raise ClbenchError("; ".join([str(unknown("method", name, self.methods, "clbench methods")), *also]))
        return self.methods[found]


def new_manager() -> pluggy.PluginManager:
    """Return a plugin manager that knows the hooks and has no plugin."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def find_plugins(plugin_files: Iterable[str | Path] = ()) -> Plugins:
    """Return every plugin, and every method and metric on offer.

    An installed package that fails is passed over with a `ClbenchWarning`: it may be none that is wanted.

    Args:
        plugin_files: files; packages; or folders, of which every file with a hook counts.

    Raises:
        ClbenchError: a plugin that was given by its file, or one of clbench's own, fails to import, misspells a hook, offers
            nothing, or offers a name that another one offers.
    """
    modules: dict[str, ModuleType] = {}
    methods: dict[str, Method] = {}
    metrics: dict[str, Metric] = dict(METRICS)
    broken, files = [], []
    for origin, load, wanted in _plugin_places(plugin_files):
        try:
            found = _inspect(origin, load)
            if not origin.startswith("clbench.plugins."):
                _check_offer(found, origin)
            _check_new_names(found, methods, metrics)
            for method in found.methods.values():
                _check_declarations(method)
        except ClbenchError as error:
            if wanted:
                raise
            broken.append(str(error))
            warnings.warn(f"passed over: {error}", ClbenchWarning, stacklevel=2)
            continue
        files += [origin] if Path(origin).is_absolute() else []
        modules |= found.modules
        methods |= found.methods
        metrics |= found.metrics
    return Plugins(dict(sorted(methods.items())), modules, metrics, tuple(broken), tuple(files))


def _inspect(origin: str, load: Callable[[], ModuleType]) -> Plugins:
    """Return one plugin and what it offers.

    Raises:
        ClbenchError: anything is wrong with it.
    """
    with blame(f"plugin {origin} cannot be imported"):
        module = load()
    manager = new_manager()
    register(manager, module, origin)
    check_pending(manager)
    methods = {
        name: Method(name, factory, origin)
        for implementation in manager.hook.methods.get_hookimpls()
        for name, factory in _offered("methods", implementation, module).items()
    }
    metrics = {
        name: metric
        for implementation in manager.hook.metrics.get_hookimpls()
        for name, metric in _offered("metrics", implementation, module).items()
    }
    return Plugins(methods, {origin: module}, metrics)


def _check_offer(found: Plugins, origin: str) -> None:
    """Refuse a plugin that takes part in nothing.

    Raises:
        ClbenchError: the module has no hook.
    """
    hooks = [name for name in HOOKS if new_manager().parse_hookimpl_opts(found.modules[origin], name) is not None]
    if not hooks:
        raise ClbenchError(
            f"plugin {origin} offers nothing: it has no function under @hookimpl; a method is offered by `methods`, which "
            "returns {'name': TheMethod}"
        )


def _check_new_names(found: Plugins, methods: Mapping[str, Method], metrics: Mapping[str, Metric]) -> None:
    origin = next(iter(found.modules))
    for name in found.methods:
        if name in methods:
            raise ClbenchError(f"method '{name}' is offered twice: by {methods[name].origin} and by {origin}")
    for name in found.metrics:
        if name in metrics:
            raise ClbenchError(f"metric '{name}' is offered twice: the second time by {origin}")


def _check_declarations(method: Method) -> None:
    """Check that the method's declarations can be offered."""
    try:
        with blame("its declarations cannot be read"):
            _ = method.options, method.about
    except ClbenchError as error:
        raise ClbenchError(f"plugin {method.origin}: method '{method.name}': {error}") from error


def _offered(hook: str, implementation: pluggy.HookImpl, module: ModuleType) -> Mapping[str, Callable[..., Any]]:
    origin = implementation.plugin_name
    with blame(f"plugin {origin}: {hook}() failed", module.__file__):
        offered = implementation.function()
    if not isinstance(offered, Mapping) or not all(
        isinstance(name, str) and callable(factory) for name, factory in offered.items()
    ):
        raise ClbenchError(f"plugin {origin}: {hook}() must return a mapping from names to callables")
    return offered


def _plugin_places(plugin_files: Iterable[str | Path]) -> Iterator[tuple[str, Callable[[], ModuleType], bool]]:
    """Yield each plugin's origin, what imports it, and whether it must work."""
    for info in pkgutil.iter_modules(importlib.import_module("clbench.plugins").__path__):
        origin = f"clbench.plugins.{info.name}"
        yield origin, partial(importlib.import_module, origin), True
    for point in entry_points(group=hookspecs.PROJECT):
        yield f"entry point {point.name} ({point.value})", point.load, False
    for file in dict.fromkeys(file for given in plugin_files for file in _files_of(Path(given).resolve())):
        yield str(file), partial(_import_file, file), True


def _files_of(given: Path) -> list[Path]:
    """Return the plugin files that a path stands for: a file, a package's `__init__.py`, or a folder's files with hooks.

    Raises:
        ClbenchError: there are none.
    """
    if given.is_file():
        return [given]
    if not given.is_dir():
        raise ClbenchError(f"no plugin file or folder '{given}'")
    if (given / "__init__.py").is_file():
        return [given / "__init__.py"]
    found = [file for file in sorted(given.glob("*.py")) if b"hookimpl" in file.read_bytes()]
    if not found:
        raise ClbenchError(f"plugin folder {given} offers nothing: no .py file in it has an @hookimpl")
    return found


def _import_file(file: Path) -> ModuleType:
    """Import a plugin file, which can import its neighbours, or a package by its `__init__.py`."""
    is_package = file.name == "__init__.py"
    title = file.parent.name if is_package else file.stem
    name = f"clbench_plugin_{title}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    place = [str(file.parent)] if is_package else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=place)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    if not is_package:
        _open_folder(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    spec.loader.exec_module(module)
    return module


def _open_folder(file: Path) -> None:
    """Let a plugin file import what lies beside it, now and while it runs: after all that is installed.

    Raises:
        ClbenchError: the file would get another module than the one beside it.
    """
    folder = file.parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    for name in {name.split(".")[0] for name in imported_names(ast.parse(file.read_bytes(), str(file)), "")}:
        beside = next((one for one in (folder / name / "__init__.py", folder / f"{name}.py") if one.is_file()), None)
        if beside is not None and name:
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None or Path(found.origin).resolve() != beside:
                other = "another module" if found is None else found.origin
                raise ClbenchError(
                    f"plugin {file}: it imports '{name}', which is {other} and not {beside}; rename that"
                )


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full names of what a module imports; `package` is the one that it is in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package if node.level else "", node.module)))
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def register(manager: pluggy.PluginManager, plugin: object, origin: str) -> None:
    """Register a plugin, after a check that whatever is called like a hook is marked as one.

    Raises:
        ClbenchError: a function with a hook's name lacks `@hookimpl`, or takes arguments that the hook has not.
    """
    for name in HOOKS:
        if inspect.isroutine(getattr(plugin, name, None)) and manager.parse_hookimpl_opts(plugin, name) is None:
            raise ClbenchError(f"plugin {origin}: '{name}' is called like a hook but lacks @hookimpl")
    try:
        manager.register(plugin, origin)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise ClbenchError(f"plugin {origin}: {' '.join(str(error).split())}") from error


def check_pending(manager: pluggy.PluginManager) -> None:
    """Check that every hook implementation has a specification.

    Raises:
        ClbenchError: a hook's name or its arguments are misspelt.
    """
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise ClbenchError(f"{' '.join(str(error).split())} (hooks: {', '.join(HOOKS)})") from error


def run_manager(plugins: Plugins, method: object, name: str, others: Iterable[object]) -> pluggy.PluginManager:
    """Return the plugin manager of one run: the method's instance, every plugin module, and others (watchers).

    Raises:
        ClbenchError: a plugin is malformed, or not exactly one of them, the method, implements `learn_task`.
    """
    manager = new_manager()
    for origin, module in plugins.modules.items():
        register(manager, module, origin)
    register(manager, method, f"method '{name}'")
    for number, other in enumerate(others, 1):  # there may be several of a kind
        register(manager, other, f"{type(other).__name__} {number}")
    check_pending(manager)
    learners = [impl for impl in manager.hook.learn_task.get_hookimpls() if not impl.wrapper and not impl.hookwrapper]
    if len(learners) != 1:
        names = ", ".join(impl.plugin_name for impl in learners) or "nobody"
        raise ClbenchError(f"exactly one plugin must implement learn_task, the method '{name}'; here: {names}")
    return manager
