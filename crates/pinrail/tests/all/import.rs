//! Workflow files of other tools become a project that is checked and runs.

use crate::support::{Project, task};

const DAG: &str = r#"
from datetime import datetime

from airflow.decorators import dag, task
from airflow.operators.bash import BashOperator
from airflow.sensors.filesystem import FileSensor

RATE = 3


@dag(schedule="@daily", start_date=datetime(2024, 1, 1), catchup=False, params={"city": "Rome"})
def rates():
    @task
    def load():
        return {"amount": 14 * RATE}

    @task
    def tell(amount, ds=None):
        print(f"{amount} on {ds}")

    found = load()
    tell(found["amount"]) >> BashOperator(
        task_id="shout", bash_command="echo '{{ params.city }}' {{ ti.xcom_pull(task_ids='load') }}"
    )


rates()
"#;

const WAITING: &str = r#"
from airflow import DAG
from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor

with DAG("waiting", schedule=None):
    S3KeySensor(task_id="wait", bucket_key="s3://b/x", queue="fast")
"#;

#[test]
fn a_dag_file_becomes_a_project_that_runs() {
    let project = Project::new(&[("dags/rates.py", DAG), ("dags/waiting.py", WAITING)]);
    let made = project.run(&["import", "airflow", "dags", "--into", "new"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.out.starts_with("2 workflows with 4 jobs from 2 files · wrote 6 files\n"), "{}", made.out);
    let told = "  dags/waiting.py:6  queue='fast' of task \"wait\"\n";
    assert!(made.out.contains(told), "{}", made.out);
    let told = "  dags/waiting.py:6  S3KeySensor \"wait\": there is no condition like it\n";
    assert!(made.out.contains(told), "{}", made.out);
    assert!(made.out.ends_with("next: cd new && pinrail check\n"), "{}", made.out);

    let inside = |arguments: &[&str]| project.run(&[arguments, &["--project", "new"]].concat());
    let checked = inside(&["check"]);
    assert_eq!((checked.code, checked.out.as_str()), (Some(0), "2 workflows checked, nothing to complain about\n"));
    let ran = inside(&["run", "rates", "--at", "2024-05-01"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let logs = inside(&["logs"]);
    assert!(logs.out.contains("42 on 2024-05-01\n"), "{}", logs.out);
    assert!(logs.out.contains("Rome {'amount': 42}\n"), "{}", logs.out);
    let waiting = inside(&["run", "waiting"]);
    assert_eq!(waiting.code, Some(1), "{waiting:?}");
    assert!(waiting.out.contains("S3KeySensor \"wait\" of dags/waiting.py:6 is not translated"), "{}", waiting.out);
}

const BRANCHING: &str = r#"
from airflow import DAG
from airflow.operators.bash import BashOperator
from airflow.operators.empty import EmptyOperator
from airflow.operators.python import BranchPythonOperator, ShortCircuitOperator
from airflow.sensors.filesystem import FileSensor


def choose(ds):
    return "few" if ds == "2024-05-01" else ["many", "more"]


with DAG("branching", schedule=None, default_args={"poke_interval": 0.2}):
    there = FileSensor(task_id="there", filepath="in/{{ ds_nodash }}.csv")
    late = FileSensor(task_id="late", filepath="in/none.csv", timeout=0.3, soft_fail=True)
    branch = BranchPythonOperator(task_id="choose", python_callable=choose)
    ways = [BashOperator(task_id=name, bash_command="echo " + name) for name in ("few", "many", "more")]
    join = EmptyOperator(task_id="join", trigger_rule="none_failed_min_one_success")
    stop = ShortCircuitOperator(task_id="stop", python_callable=lambda: 0)
    there >> branch >> ways >> join >> stop >> EmptyOperator(task_id="next")
    late >> EmptyOperator(task_id="below")
    stop >> EmptyOperator(task_id="last", trigger_rule="all_done")
"#;

#[test]
fn sensors_wait_and_branches_choose_as_they_do_in_a_dag() {
    let project = Project::new(&[("dags/branching.py", BRANCHING)]);
    let made = project.run(&["import", "airflow", "dags", "--into", "new"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(!made.out.contains("not translated"), "{}", made.out);
    for day in ["20240501", "20240502"] {
        project.write(&format!("new/in/{day}.csv"), "1\n");
    }
    let inside = |arguments: &[&str]| project.run(&[arguments, &["--project", "new"]].concat());
    let checked = inside(&["check"]);
    assert_eq!((checked.code, checked.out.as_str()), (Some(0), "1 workflow checked, nothing to complain about\n"));
    let skipped_always = ["late", "below", "next", "last"];
    for (day, ways, others) in
        [("2024-05-01", vec!["few"], vec!["many", "more"]), ("2024-05-02", vec!["many", "more"], vec!["few"])]
    {
        let ran = inside(&["run", "branching", "--at", day]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let run = inside(&["show", "--json"]).json();
        for job in ways.into_iter().chain(["there", "choose", "join", "stop"]) {
            assert_eq!(task(&run, job)["state"], "succeeded", "{job}: {run}");
        }
        for job in others.into_iter().chain(skipped_always) {
            assert_eq!(task(&run, job)["state"], "skipped", "{job}: {run}");
        }
    }
}

#[test]
fn an_import_adds_to_a_project_and_changes_no_file() {
    let project = Project::new(&[("dags/rates.py", DAG), ("workflows/own.py", "workflow = {}\n")]);
    let made = project.run(&["import", "airflow", "dags/rates.py", "--json"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let document = made.json();
    assert_eq!(document["sources"][0]["workflows"][0], "rates");
    assert_eq!(document["files"].as_array().unwrap().len(), 3);
    assert_eq!(document["notes"], serde_json::json!([]));
    assert!(project.path().join("workflows/rates.py").is_file());

    let again = project.run(&["import", "airflow", "dags/rates.py"]);
    assert_eq!(again.code, Some(4), "{again:?}");
    assert!(again.err.contains("workflows/rates.py exist already: nothing was written"), "{}", again.err);
    let into = project.run(&["import", "airflow", "dags/rates.py", "--into", "dags"]);
    assert_eq!(into.code, Some(4), "{into:?}");
    assert!(into.err.contains("the folder \"dags\" has files but no pinrail.toml"), "{}", into.err);
    let nothing = project.run(&["import", "airflow", "workflows"]);
    assert_eq!(nothing.code, Some(4), "{nothing:?}");
    assert!(nothing.err.contains("no DAG found in workflows"), "{}", nothing.err);
}

#[test]
fn no_module_of_the_current_folder_stands_in_for_pythons_own() {
    let trap = "open('/dev/stderr', 'w').write('trapped'); raise SystemExit(9)\n";
    let project = Project::new(&[("dags/rates.py", DAG), ("json.py", trap), ("ast.py", trap), ("airflow.py", trap)]);
    let made = project.run(&["import", "airflow", "dags", "--into", "new"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(made.err, "");
}

const LIMITED: &str = r#"
from datetime import datetime, timedelta

from airflow import DAG
from airflow.operators.bash import BashOperator

GIVEN = {"email": ["anna@example.org"], "sla": timedelta(hours=2), "pool": "orders", "depends_on_past": True}
with DAG("limited", schedule="@daily", start_date=datetime(2024, 1, 1), catchup=True, max_active_runs=2,
         max_active_tasks=4, default_args=GIVEN):
    BashOperator(task_id="load", bash_command="echo loaded", max_active_tis_per_dag=1, priority_weight=3)
"#;

#[test]
fn limits_and_mails_of_a_dag_are_those_of_a_workflow() {
    let project = Project::new(&[("dags/limited.py", LIMITED)]);
    let made = project.run(&["import", "airflow", "dags", "--into", "new"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.out.contains("      pinrail pools set orders --slots N\n"), "{}", made.out);
    assert!(!made.out.contains("not translated"), "{}", made.out);
    let workflow = std::fs::read_to_string(project.path().join("new/workflows/limited.py")).unwrap();
    for setting in [
        "    schedule=cron('@daily', start='2024-01-02', catch_up='all'),\n",
        "    max_active=2,\n    concurrency=4,\n    overrun='delay-until-success',\n    sla='2h',\n",
        "    notify={'failure': ['anna'], 'sla-missed': ['anna']},\n",
        "    defaults={'pools': 'orders'},\n",
        "concurrency=1, priority=3)",
    ] {
        assert!(workflow.contains(setting), "{setting} is not in {workflow}");
    }

    let inside = |arguments: &[&str]| project.run(&[arguments, &["--project", "new"]].concat());
    let checked = inside(&["check"]);
    assert!(checked.out.contains("job \"load\" waits for pool \"orders\", which is not set"), "{checked:?}");
    assert_eq!(inside(&["pools", "set", "orders", "--slots", "1"]).code, Some(0));
    let checked = inside(&["check"]);
    assert_eq!((checked.code, checked.out.as_str()), (Some(0), "1 workflow checked, nothing to complain about\n"));
    let ran = inside(&["run", "limited", "--at", "2024-05-01"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

const PINBALL: &str = r"
from datetime import datetime, timedelta
from pinball_ext.job_templates import CommandJobTemplate, JobTemplate
from pinball_ext.workflow.config import JobConfig, ScheduleConfig, WorkflowConfig

WORKFLOWS = {
    'nightly': WorkflowConfig(
        jobs={
            'make': JobConfig(JobTemplate('Make', max_attempts=2), []),
            'tell': JobConfig(CommandJobTemplate('Tell', 'echo %%(city)s'), ['make']),
        },
        final_job_config=JobConfig(CommandJobTemplate('final', 'echo end')),
        schedule=ScheduleConfig(recurrence=timedelta(days=1), reference_timestamp=datetime(2015, 2, 1, 4)),
        notify_emails='anna@example.org'),
}
";

const PINBALL_JOB: &str = r"
from pinball_ext.job.basic_jobs import PythonJob


class Make(PythonJob):
    def _setup(self):
        self.city = 'Rome at ' + self.params['end_date']

    def _execute(self):
        print 'PINBALL:EVENT_ATTR:city=' + self.city
";

#[test]
fn a_pinball_repository_becomes_a_project_that_runs() {
    let project = Project::new(&[("repo/workflows.py", PINBALL), ("repo/jobs/make.py", PINBALL_JOB)]);
    let made = project.run(&["import", "pinball", "repo", "--into", "new"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.out.contains("repo/workflows.py:7  notify_emails of workflow \"nightly\" are told"), "{}", made.out);
    let declared = std::fs::read_to_string(project.path().join("new/pinrail.toml")).unwrap();
    assert!(declared.contains("[notify.anna]\nkind = \"email\"\nto = [\"anna@example.org\"]\n"), "{declared}");
    let inside = |arguments: &[&str]| project.run(&[arguments, &["--project", "new"]].concat());
    assert_eq!(inside(&["check"]).code, Some(0));
    let ran = inside(&["run", "nightly", "--at", "2024-05-01"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let logs = inside(&["logs", "--job", "tell"]);
    assert_eq!(logs.out, "Rome at 2024-05-01\n");
}
