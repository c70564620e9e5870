import json
import threading
from urllib.parse import parse_qs

import pytest
from mlflow import MlflowClient

from mcl_lab.runs.journal import Journal, read_record, read_status
from mcl_lab.tracking.delivery import is_delivered, ui_hint
from mcl_lab.tracking.mlflow import store as mlflow_store


class Killed(BaseException):
    """The process ends here: nothing in the code under test catches it."""


def finish(journal: Journal, **figures: float) -> None:
    (journal.folder / "result.json").write_text(json.dumps({"final": figures, "more": [1]}))
    journal.status("finished")


def test_a_whole_run_arrives_as_it_was_recorded(store, new_run, stored_runs, epochs_as_points, epoch):
    journal = new_run(store)
    journal.status("running")
    epochs = [epoch(n) for n in range(1, 41)]
    for line in epochs:
        journal.append(line)
    assert not mlflow_store.deliver(journal.folder)
    assert [run["status"] for run in stored_runs(store)] == ["RUNNING"]
    finish(journal, **{"final/a/own_head": 90.5})
    assert not is_delivered(journal.folder)
    assert mlflow_store.deliver(journal.folder)
    assert is_delivered(journal.folder)

    (run,) = stored_runs(store)
    record, status = read_record(journal.folder), read_status(journal.folder)
    final = ("final/a/own_head", 90.5, epochs[-1]["time_ms"], 40)
    assert run["metrics"] == sorted([*epochs_as_points(epochs), final])
    assert run["params"] == record["params"]
    assert run["tags"].items() >= (record["tags"] | {"mcl_lab.id": record["id"], "mcl_lab.run_key": "0f" * 32}).items()
    assert run["tags"]["mcl_lab.state"] == "finished"
    assert (run["name"], run["status"]) == ("run", "FINISHED")
    assert (run["start_ms"], run["end_ms"]) == (record["created_ms"], status["ended_ms"])
    assert run["artifacts"] == ["config.yaml", "result.json", "run.log"]


def test_sending_again_changes_nothing_even_without_memory(store, new_run, stored_runs, epoch):
    journal = new_run(store)
    journal.status("running")
    journal.append(epoch(1))
    journal.append(epoch(2))
    finish(journal, **{"final/a": 1.0})
    assert mlflow_store.deliver(journal.folder)
    before = stored_runs(store)
    assert mlflow_store.deliver(journal.folder)
    (journal.folder / "delivery.json").unlink()
    assert mlflow_store.deliver(journal.folder)
    journal.status("finished")  # the same command again finds the run finished and says so
    assert mlflow_store.deliver(journal.folder)
    after = stored_runs(store)
    assert [run["metrics"] for run in after] == [run["metrics"] for run in before]
    assert [run["artifacts"] for run in after] == [run["artifacts"] for run in before]


def test_a_death_before_or_after_any_step_of_a_pass_leaves_no_trace(
    store, new_run, stored_runs, epochs_as_points, epoch, monkeypatch
):
    """Every call to MLflow and every write of the memory, in turn, is the last thing a process does."""
    steps = {
        MlflowClient: ("create_run", "log_batch", "set_tag", "set_terminated", "log_artifact"),
        mlflow_store: ("write_delivery",),
    }

    def die_at(patch, number: int, before: bool) -> None:
        left = [number]

        def dying(call):
            def step(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0 and before:
                    raise Killed
                result = call(*args, **kwargs)
                if left[0] == 0:
                    raise Killed
                return result

            return step

        for owner, step_names in steps.items():
            for name in step_names:
                patch.setattr(owner, name, dying(getattr(owner, name)))

    deaths = 0
    for before in (True, False):
        for number in range(1, 100):
            journal = new_run(store, f"{number}-{before}")
            journal.status("running")
            epochs = [epoch(1), epoch(2, other=3.0)]
            for line in epochs:
                journal.append(line)
            finish(journal, figure=1.0)
            with monkeypatch.context() as patch:
                die_at(patch, number, before)
                try:
                    mlflow_store.deliver(journal.folder)
                    survived = True
                except Killed:
                    survived = False
                    deaths += 1
            if before:
                assert is_delivered(journal.folder) is survived
            assert mlflow_store.deliver(journal.folder)
            (run,) = (run for run in stored_runs(store) if run["name"] == journal.folder.name)
            assert run["metrics"] == sorted([*epochs_as_points(epochs), ("figure", 1.0, epochs[-1]["time_ms"], 2)])
            assert run["status"] == "FINISHED"
            assert run["artifacts"] == ["config.yaml", "result.json", "run.log"]
            if survived:
                break
    # A run made; its description, two epochs and figures; state and end; three artifacts; twice the memory.
    assert deaths == 2 * 12


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(store, new_run, stored_runs, epochs_as_points, epoch, record):
    journal = new_run(store)
    seen = []
    for state, message, status in (
        ("interrupted", "asked to stop", "KILLED"),
        ("failed", "loss became NaN at step 7", "FAILED"),
        ("finished", "", "FINISHED"),
    ):
        epochs = [epoch(n) for n in range(1, len(seen) + 2)]
        again = Journal(journal.folder)
        params = {"pair": "resnet8", "seed": "0", "new": "1"}
        again.begin(record(store) | {"params": params, "tags": {"attempt": message}})
        again.restore(epochs[:-1])
        again.status("running")
        assert not mlflow_store.deliver(journal.folder)
        assert stored_runs(store)[0]["status"] == "RUNNING"
        again.append(epochs[-1])
        again.status(state, message)
        assert mlflow_store.deliver(journal.folder)
        (run,) = stored_runs(store)
        assert run["status"] == status
        assert run["tags"]["mcl_lab.state"] == (f"{state}: {message}" if message else state)
        assert run["tags"]["attempt"] == message
        assert run["metrics"] == epochs_as_points(epochs)
        seen.append(run["id"])
    assert len(set(seen)) == 1
    assert run["params"] == {"pair": "resnet8", "seed": "0", "new": "1"}


def test_a_parameter_that_is_there_with_another_value_stays(store, new_run, stored_runs, record):
    journal = new_run(store)
    journal.status("running")
    mlflow_store.deliver(journal.folder)
    journal.begin(record(store) | {"params": {"pair": "resnet20"}})
    mlflow_store.deliver(journal.folder)
    assert stored_runs(store)[0]["params"] == {"pair": "resnet8", "seed": "0"}


def test_a_process_that_vanished_leaves_a_failed_run(store, new_run, stored_runs, epoch):
    journal = new_run(store)
    journal.status("running")
    journal.append(epoch(1))
    assert mlflow_store.deliver(journal.folder, vanished=True)
    (run,) = stored_runs(store)
    assert run["status"] == "FAILED"
    assert "ended without a word" in run["tags"]["mcl_lab.state"]
    assert abs(run["end_ms"] - read_status(journal.folder)["started_ms"]) < 10_000
    Journal(journal.folder).status("running")  # resumed
    assert not is_delivered(journal.folder)
    assert not mlflow_store.deliver(journal.folder)
    assert stored_runs(store)[0]["status"] == "RUNNING"
    assert stored_runs(store)[0]["tags"]["mcl_lab.state"] == "running"


def test_a_process_that_vanished_before_its_first_word_is_recorded_too(store, new_run, stored_runs):
    journal = new_run(store)
    assert mlflow_store.deliver(journal.folder, vanished=True)
    assert stored_runs(store)[0]["status"] == "FAILED"
    assert is_delivered(journal.folder, vanished=True)


def test_what_is_not_finite_or_oddly_named_stops_nothing(store, new_run, stored_runs, epoch):
    journal = new_run(store)
    journal.status("running")
    journal.append(epoch(1, nothing=float("nan"), infinite=float("-inf"), **{"odd (name), 50%": 2.0, "größe": 3.0}))
    journal.status("finished")  # without a result.json
    (journal.folder / "run.log").unlink()
    assert mlflow_store.deliver(journal.folder)
    (run,) = stored_runs(store)
    points = {name: value for name, value, *_ in run["metrics"]}
    assert points == {"train/loss": 1.0, "test/a/own_head": 51.0, "odd _name__ 50_": 2.0, "größe": 3.0}
    assert run["artifacts"] == ["config.yaml"]


def test_a_run_that_moves_to_another_store_is_delivered_there_whole(
    store, new_run, stored_runs, epochs_as_points, epoch, record, empty_store, tmp_path
):
    journal = new_run(store)
    journal.status("running")
    journal.append(epoch(1))
    journal.status("interrupted")
    assert mlflow_store.deliver(journal.folder)
    other = f"sqlite:///{tmp_path}/other.db"
    (tmp_path / "other.db").write_bytes(empty_store.read_bytes())
    journal.begin(record(other))
    assert not is_delivered(journal.folder)
    assert mlflow_store.deliver(journal.folder)
    assert stored_runs(other)[0]["metrics"] == epochs_as_points([epoch(1)])
    assert [run["status"] for uri in (store, other) for run in stored_runs(uri)] == ["KILLED", "KILLED"]


def test_a_run_deleted_in_mlflow_is_made_again_when_it_goes_on(store, new_run, stored_runs, epochs_as_points, epoch):
    journal = new_run(store)
    journal.status("running")
    journal.append(epoch(1))
    mlflow_store.deliver(journal.folder)
    MlflowClient(tracking_uri=store).delete_run(stored_runs(store)[0]["id"])
    journal.append(epoch(2))
    journal.status("finished")
    assert mlflow_store.deliver(journal.folder)
    deleted, fresh = sorted(stored_runs(store), key=lambda run: len(run["metrics"]))
    assert fresh["metrics"] == epochs_as_points([epoch(1), epoch(2)])
    assert (deleted["metrics"], deleted["status"]) == (epochs_as_points([epoch(1)]), "RUNNING")


def test_a_deleted_experiment_is_named(store, new_run):
    client = MlflowClient(tracking_uri=store)
    client.delete_experiment(client.create_experiment("a study"))
    with pytest.raises(RuntimeError, match="'a study' is deleted"):
        mlflow_store.deliver(new_run(store).folder)


def test_an_experiment_that_another_machine_makes_meanwhile_is_used(store, new_run, stored_runs, monkeypatch):
    real = MlflowClient.create_experiment

    def late(self, name, **kwargs):
        real(self, name, **kwargs)
        return real(self, name, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_experiment", late)
    journal = new_run(store)
    journal.status("finished")
    assert mlflow_store.deliver(journal.folder)
    assert len(stored_runs(store)) == 1


def test_without_tracking_there_is_nothing_to_deliver(tmp_path, new_run):
    journal = new_run(None)
    journal.status("finished")
    assert mlflow_store.deliver(journal.folder) and is_delivered(journal.folder)
    assert ui_hint(journal.folder) is None
    assert not (journal.folder / "delivery.json").exists()


def test_the_hint_leads_to_the_experiment(store, new_run):
    journal = new_run(store)
    journal.status("finished")
    assert ui_hint(journal.folder) is None
    mlflow_store.deliver(journal.folder)
    command, fragment = ui_hint(journal.folder)
    experiment = MlflowClient(tracking_uri=store).get_experiment_by_name("a study")
    assert command == f"mlflow ui --backend-store-uri {store}"
    assert fragment.startswith(f"#/experiments/{experiment.experiment_id}/runs?")


def test_the_hint_of_a_sweep_and_its_runs_leads_to_them(store, new_run, new_sweep):
    sweep = new_sweep(store)
    run = new_run(store, parent=str(sweep.folder))
    other = new_run(store, "other")
    for journal in (sweep, run, other):
        journal.status("finished")
        mlflow_store.deliver(journal.folder)
    name = json.loads((sweep.folder / "record.json").read_text())["name"]
    for folder in (sweep.folder, run.folder):
        asked = parse_qs(ui_hint(folder)[1])
        assert asked["searchFilter"] == [f'tags.sweep = "{name}"']
        found = MlflowClient(tracking_uri=store).search_runs(
            ["1"], asked["searchFilter"][0], order_by=[f"{asked['orderByKey'][0]} ASC"]
        )
        assert [one.info.run_name for one in found] == ["run"]
    assert "searchFilter" not in ui_hint(other.folder)[1]


def test_the_data_set_is_an_input_once(store, new_run):
    trained = {"dataset": "digits", "seed": "0"}
    environments = [{"step": 0, "data": {"train": "0123456789abcdef", "test": "f" * 16}}]
    journal = new_run(store, params=trained, environments=environments)
    journal.status("running")
    for _ in range(2):
        mlflow_store.deliver(journal.folder)
    (run,) = MlflowClient(tracking_uri=store).search_runs(["1"])
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "0123456789abcdef")
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_runs_that_deliver_at_once_share_an_experiment(store, new_run, stored_runs, epoch):
    journals = [new_run(store, f"run{n}") for n in range(6)]
    for journal in journals:
        journal.status("running")
        journal.append(epoch(1))
        journal.status("finished")
    threads = [threading.Thread(target=mlflow_store.deliver, args=(journal.folder,)) for journal in journals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(is_delivered(journal.folder) for journal in journals)
    assert sorted(run["name"] for run in stored_runs(store)) == [f"run{n}" for n in range(6)]
