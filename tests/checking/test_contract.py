"""`clbench check-method`: every method that discovery finds passes, and broken ones fail with the right reason."""

from importlib.util import find_spec

import pytest

from clbench.checking.battery import SETTINGS, check_method
from clbench.checking.forms import FORMS, Forms
from clbench.discovery import find_plugins
from tests.conftest import EXAMPLE_PLUGINS

PLUGINS = find_plugins([EXAMPLE_PLUGINS / "l2.py"])
AVERAGE = find_plugins([EXAMPLE_PLUGINS / "average.py"])
OWN_MEMORY = find_plugins([EXAMPLE_PLUGINS / "own_memory.py"])
BROKEN = find_plugins(sorted(EXAMPLE_PLUGINS.glob("*.py")))
VARIANTS = [
    ("rkif", {"outer_importance": "static"}),
    ("rkif", {"variant": "release", "scope": "tensor"}),
    ("vrmcl", {"carry": "true"}),
    ("tasl", {"variant": "taslora"}),
    ("ewc", {"form": "offline"}),
    ("migu", {"base": "lorareplay"}),
    ("olora", {"ortho_norm": "l2sq", "lambda2": "0.1"}),
    ("sapt", {"pseudo": "generator", "generator_steps": "18"}),
    ("moelora", {"top_k": "1", "load_balance": "0.01"}),
    ("gainlora", {"base": "olora"}),
]

NOTES = {
    "mtl": "learns in one phase: nothing to resume",
    "l2": "goes on from the last finished task (About.resumes_within_tasks)",
}


def faults_of(plugins, name, given, backbone, forms=(), decoder=None):
    method = plugins.method(name)
    findings = check_method(plugins, method, method.resolve_options(given), backbone, forms, decoder)
    return {finding.check: finding.fault for finding in findings if finding.fault}, findings


@pytest.mark.parametrize(
    ("name", "given"),
    [*((name, {}) for name in PLUGINS.methods), *VARIANTS],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()) or "default",
)
def test_every_method_passes(backbone, llama, name, given):
    forms = () if given else ("decoder",)  # the others take twice as long; all of them are tested below
    faults, findings = faults_of(PLUGINS, name, given, backbone, forms, llama)
    assert not faults
    assert len(findings) == 10 + len(forms)
    notes = [finding.note for finding in findings if finding.note]
    assert notes == [NOTES[name]] if name in NOTES else not notes


@pytest.mark.parametrize(
    ("name", "form", "fault"),
    [
        ("sums_micro_batches", "micro-batch", "micro-batches of 3 learn other weights than whole batches of 8: "),
        ("answers_freely", "labels", "answers 'no label' to a question of task 'sst-2', which has no such label"),
        ("needs_encoder", "decoder", "AssertionError: not on a decoder"),
        ("needs_float32", "bfloat16", "AssertionError: not in bfloat16"),
    ],
)
def test_a_method_that_bears_a_form_ill_is_told_so(backbone, llama, tmp_path, name, form, fault):
    method = BROKEN.method(name)
    (wrong,) = Forms(BROKEN, method, {}, backbone, tmp_path, SETTINGS, llama).findings([form])
    assert wrong.check == FORMS[form]
    assert fault in wrong.fault


@pytest.mark.parametrize(
    ("name", "check", "reason"),
    [
        ("saves_nothing", "saved adapter", "the saved adapter is empty: 0 tensors"),
        ("rate_zero", "every optimizer", "task 2: 1 of 2 optimizers never step above learning rate 0"),
        ("reads_old_data", "reads no rows", "reads 72 rows of task 'sst-2' while it learns task 2, may keep 0"),
        ("reads_test_rows", "reads no rows", "reads 8 test rows while it learns task 1"),
        ("asks_for_the_task", "answers need no task id", "16 of 16 answers change when the tasks' names are hidden"),
        ("forgets_average", "saved adapter", "the reloaded learner answers task 'sst-2' differently"),
        ("forgets_state", "stopped and resumed", "a run stopped in task 2 and resumed has other weights"),
        ("forgets_steps", "stopped within a task", "a run stopped at step 9 of task 2 and resumed has other weights"),
        (
            "steps_by_hand",
            "stopped within a task",
            "says that it resumes within tasks, but its phases are not one loop each",
        ),
    ],
)
def test_a_broken_method_fails_with_the_reason(backbone, name, check, reason):
    faults, _ = faults_of(BROKEN, name, {}, backbone)
    (fault,) = [fault for title, fault in faults.items() if title.startswith(check)]
    assert fault.startswith(reason)
    assert len(faults) == (2 if name == "reads_old_data" else 1)  # what it holds is lost when resumed


@pytest.mark.parametrize("name", ["share", "counted"])
def test_a_memory_of_any_name_and_unit_passes(backbone, name):
    assert not faults_of(OWN_MEMORY, name, {}, backbone)[0]


def test_the_saved_state_is_restored_by_the_code_that_users_load_with(backbone, monkeypatch):
    assert not faults_of(AVERAGE, "average", {}, backbone)[0]
    monkeypatch.setattr("clbench.running.saved_learner.restore_state", lambda method, state: None)
    (fault,) = faults_of(AVERAGE, "average", {}, backbone)[0].items()
    assert fault == (
        "saved adapter reloads to the same answers", "the reloaded learner answers task 'sst-2' differently",
    )  # fmt: skip


def test_a_memory_is_held_to_its_declared_number_of_rows(backbone):
    faults, _ = faults_of(OWN_MEMORY, "overdrawn", {}, backbone)
    assert faults["reads no rows beyond its memory"].startswith(
        "reads 6 rows of task 'sst-2' while it learns task 2, may keep 5"
    )
    assert faults["keeps no rows beyond its memory"] == "keeps 6 rows of task 'sst-2', may keep 5"


def test_a_memory_without_effect_may_keep_nothing():
    migu = PLUGINS.method("migu")
    assert migu.budget(migu.resolve_options({}), 1000, 2) == 0
    assert migu.budget(migu.resolve_options({"base": "lorareplay"}), 1000, 2) == 20


def test_a_method_that_fails_says_why(backbone):
    faults, findings = faults_of(PLUGINS, "l2", {"strength": "1e300"}, backbone)
    assert len(findings) == 1
    assert "failed on task 'sst-2': the gradient of '" in next(iter(faults.values()))


def test_the_command_prints_a_table_and_sets_the_exit_code(clbench):
    passed = clbench("check-method", "l2", "--plugin", EXAMPLE_PLUGINS / "l2.py", "--set", "strength=0.1")
    assert passed.exit_code == 0, passed.output
    assert passed.output.count("✓") == 10 + len(FORMS)
    failed = clbench("check-method", "rate_zero", "--plugin", EXAMPLE_PLUGINS / "rate_zero.py")
    assert "bitsandbytes is not installed" in passed.output or find_spec("bitsandbytes")
    assert failed.exit_code == 1
    assert failed.output.count("✓") == 9 + len(FORMS)
    assert "never step above" in failed.output
    assert clbench("check-method", "nobody").exit_code == 2
