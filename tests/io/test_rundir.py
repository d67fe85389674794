import pytest

from bnnkit.errors import UsageError
from bnnkit.io import rundir
from bnnkit.io.atomic import atomic_directory, atomic_path
from bnnkit.spec import ClassPlan, ModelSpec, Plan, Report


def half_written(context, name, failure):
    with context as part:
        (part / name).write_text("half")
        raise failure


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_file_appears_whole_or_not_at_all(tmp_path, failure):
    target = tmp_path / "deep" / "model.pt2"
    with pytest.raises(failure):
        half_written(atomic_path(target), "", failure)
    assert list(target.parent.iterdir()) == []
    with atomic_path(target) as part:
        assert part.name == "model.pt2"
        assert not target.exists()
        part.write_text("whole")
    assert [p.name for p in target.parent.iterdir()] == ["model.pt2"]
    with pytest.raises(failure):
        half_written(atomic_path(target), "", failure)
    assert target.read_text() == "whole"


def test_a_file_never_replaces_a_directory(tmp_path):
    with pytest.raises(UsageError, match="directory"), atomic_path(tmp_path):
        pass


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing(tmp_path, failure):
    with pytest.raises(failure):
        half_written(rundir.run_directory(tmp_path / "run"), rundir.MODEL_ONNX, failure)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_kept_unless_forced(tmp_path):
    out = tmp_path / "run"
    with rundir.run_directory(out) as part:
        (part / rundir.PLAN).write_text("first")
    with pytest.raises(UsageError, match="--force"):
        half_written(rundir.run_directory(out), rundir.PLAN, AssertionError)
    with pytest.raises(RuntimeError):
        half_written(rundir.run_directory(out, force=True), rundir.PLAN, RuntimeError)
    assert (out / rundir.PLAN).read_text() == "first"
    with rundir.run_directory(out, force=True) as part:
        (part / rundir.REPORT_JSON).write_text("second")
    assert [p.name for p in out.iterdir()] == [rundir.REPORT_JSON]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_force_never_deletes_somebody_elses_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(UsageError, match=r"thesis\.tex"),
        rundir.run_directory(tmp_path, force=True),
    ):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_an_empty_directory_is_filled_and_a_file_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_directory(tmp_path / "empty") as part:
        (part / "a").write_text("a")
    assert (tmp_path / "empty" / "a").read_text() == "a"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"), atomic_directory(tmp_path / "file", force=True):
        pass


def test_a_failed_swap_brings_the_old_directory_back(tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    (out / rundir.PLAN).write_text("first")
    from bnnkit.io import atomic

    rename = atomic.os.replace

    def fail_on_new(source, target):
        if str(source).endswith(".part"):
            raise OSError("disk gone")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", fail_on_new)
    with pytest.raises(OSError, match="disk gone"), rundir.run_directory(out, force=True):
        pass
    monkeypatch.undo()
    assert (out / rundir.PLAN).read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_plan_and_report_come_back(tmp_path):
    plan = Plan(ModelSpec(arch="bnnkit:lenet5"), classes=(ClassPlan("conv1", 4, (0, 2)),))
    report = Report("prune", sections={"original": {"parameters": 5}})
    rundir.write_plan(tmp_path, plan)
    rundir.write_report(tmp_path, report)
    assert Plan.from_json((tmp_path / rundir.PLAN).read_text()) == plan
    again = Report.from_json((tmp_path / rundir.REPORT_JSON).read_text())
    assert again.sections == report.sections
    assert rundir.is_run_directory(tmp_path)
    assert not rundir.is_run_directory(tmp_path / "plan.json")
