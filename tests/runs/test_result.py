"""Final metrics of records written by hand."""

from mcl_lab.runs.result import final_metrics


def record(epoch, **metrics):
    return {"epoch": epoch, "metrics": {name.replace("__", "/"): value for name, value in metrics.items()}}


def test_without_validation():
    records = [
        record(1, test__a__stage1=40.0, test__a__own_head=70.0, test__a__ensemble=99.0, train__a__own_head=98.0),
        record(2, test__a__stage1=91.0, test__a__own_head=80.0, test__a__ensemble=60.0, train__a__own_head=98.0),
        record(3, test__a__stage1=41.0, test__a__own_head=80.0, test__a__ensemble=85.0, train__a__own_head=98.0),
        record(4, test__a__stage1=42.0, test__a__own_head=75.0, test__a__ensemble=65.0, train__a__own_head=98.0),
    ]
    assert final_metrics(records, ["a"]) == {
        "a": {
            "own_head_last_epoch": 75.0,
            "own_head_best_epoch": 80.0,
            "best_epoch": 2,  # the first of two
            "best_of_all_heads_and_epochs": 91.0,  # neither the ensemble's nor the training images' 98
            "ensemble_last_epoch": 65.0,
        }
    }


def test_validation_chooses():
    records = [
        record(1, test__a__own_head=70.0, validation__a__own_head=60.0, validation__a__stage1=99.0),
        record(2, test__a__own_head=65.0, validation__a__own_head=90.0, validation__a__stage1=99.0),
        record(3, test__a__own_head=68.0, validation__a__own_head=80.0, validation__a__stage1=99.0),
    ]
    found = final_metrics(records, ["a"])["a"]
    assert (found["own_head_best_epoch"], found["best_epoch"]) == (65.0, 2)
    assert found["own_head_last_epoch"] == 68.0 and found["best_of_all_heads_and_epochs"] == 70.0
    assert "ensemble_last_epoch" not in found


def test_each_peer_has_its_own_and_names_that_begin_alike_stay_apart():
    records = [
        record(1, test__a__own_head=10.0, test__a2__own_head=30.0, test__a2__stage1=50.0),
        record(2, test__a__own_head=20.0, test__a2__own_head=25.0, test__a2__stage1=5.0),
    ]
    found = final_metrics(records, ["a", "a2"])
    assert [found["a"][name] for name in ("best_epoch", "best_of_all_heads_and_epochs")] == [2, 20.0]
    assert [found["a2"][name] for name in ("best_epoch", "best_of_all_heads_and_epochs")] == [1, 50.0]
