from __future__ import annotations

import pytest

from faultlines.notebook.errors import UsageError
from faultlines.runner.slurm import TAKEN, SlurmResources, read_sbatch

PLAIN = {"time": 240, "cpus_per_task": 2, "array_parallelism": 64, "signal_delay_s": 90}

ASKED = {
    "partition": ({"partition": "long"}, {"partition": "long"}),
    "account": ({"account": "physics"}, {"account": "physics"}),
    "quality of service": ({"qos": "high"}, {"qos": "high"}),
    "constraint": ({"constraint": "a100|h100"}, {"constraint": "a100|h100"}),
    "memory": ({"mem": "16G"}, {"mem": "16G"}),
    "GPUs": ({"gpus": 2}, {"gpus_per_node": 2}),
    "further options": (
        {"sbatch": {"gres": "gpu:1", "exclusive": True}},
        {"additional_parameters": {"gres": "gpu:1", "exclusive": True}},
    ),
}


def test_what_is_not_asked_for_is_left_to_the_cluster() -> None:
    assert SlurmResources().submitit() == PLAIN


@pytest.mark.parametrize("what", ASKED)
def test_what_is_asked_for_is_said_in_submitits_words(what: str) -> None:
    asked, said = ASKED[what]
    assert SlurmResources(**asked).submitit() == PLAIN | said


@pytest.mark.parametrize(
    "wrong",
    [
        {"minutes": 0},
        {"gpus": -1},
        {"mem": "much"},
        {"mem": "-1G"},
        {"nodes": 2},
        {"account": ""},
        {"qos": ""},
    ],
    ids=str,
)
def test_nothing_else_can_be_asked_for(wrong: dict) -> None:
    with pytest.raises(ValueError):
        SlurmResources(**wrong)


def test_further_options_are_read_as_sbatch_has_them() -> None:
    assert read_sbatch(["gres=gpu:a100:1", "--exclusive", "mail-user=a=b@c"]) == {
        "gres": "gpu:a100:1",
        "exclusive": True,
        "mail-user": "a=b@c",
    }


NO_OPTION = {
    "": "not of the form", "=3": "not of the form", "gres=": "not of the form", "-J=3": "not of the form",
    "gr es=3": "not of the form", "comment=a\nb": "not of the form", "mem=3": "say --mem instead",
    "time=3": "say --time instead", "output=x": "gives it itself",
}  # fmt: skip


@pytest.mark.parametrize("word", NO_OPTION)
def test_what_is_no_option_or_the_runners_own_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=NO_OPTION[word]):
        read_sbatch([word])
    with pytest.raises(UsageError, match="given twice"):
        read_sbatch(["gres=a", "gres=b"])


def test_every_option_of_ours_that_is_named_instead_is_one() -> None:
    from typer.main import get_command

    from faultlines.cli.app import app

    run = get_command(app).commands["run"]
    known = {option for parameter in run.params for option in parameter.opts}
    assert {ours for ours in TAKEN.values() if ours} <= known
