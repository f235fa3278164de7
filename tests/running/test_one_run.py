"""A run by a call from Python: the same run as the command's, once."""

import pytest

import clbench as public
from clbench.records.files import read_record
from tests.conftest import TINY

EXTENT = {"stream": "sst-2,agnews", "limit_train": 16, "limit_test": 8, "epochs": 1, "threads": 1}


def test_it_is_the_run_that_the_command_makes(clbench, tiny_run, tiny_folder, tmp_path, capsys):
    words = ["--method", "ewc", "--stream", "sst-2,agnews", "--set", "strength=2", "--threads", "1", "--seeds", "2,"]
    assert clbench(*tiny_run, *words).exit_code == 0
    (path,) = (tmp_path / "results").glob("*.json")
    settings = {**TINY, **EXTENT, "backbone": str(tiny_folder), "seed": 2}
    record = public.run("ewc", options={"strength": 2}, **settings)  # it is finished
    assert record == read_record(path)
    again = public.run("ewc", options={"strength": 2}, results=tmp_path / "other", **settings)
    assert (again.identity, again.scores) == (record.identity, record.scores)
    assert capsys.readouterr().out == ""  # what is shown goes to stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "ewx"}, "no method 'ewx'; did you mean 'ewc'"),
        ({"order": 10}, "no order '10'"),
        ({"order": 4, "stream": "sst-2"}, "order and stream both name a stream; give one"),
        ({"epoch": 1}, "no setting 'epoch'; did you mean 'epochs'"),
        ({"epochs": 1.5}, "setting 'epochs' takes a whole number from 1 to 10000, not 1.5"),
        (
            {"options": {"strength": -1}},
            "option 'strength' of method 'ewc' takes a finite number of at least 0, not -1",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, said, tmp_path):
    with pytest.raises(public.ClbenchError) as caught:
        public.run(**{"method": "ewc", "results": tmp_path, **given})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
