use serde_json::{Value, json};

use super::*;

fn cron_job(spec: Value, last: Option<&str>) -> CronJob {
    let mut object = json!({
        "metadata": {"name": "tick", "namespace": "default", "uid": "cron", "creationTimestamp": "2026-01-01T00:00:30Z"},
        "spec": {
            "schedule": "*/5 * * * *", "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"app": "tick"}},
                "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}},
        },
        "status": {"lastScheduleTime": last},
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut object["spec"], spec) {
        into.extend(more);
    }
    serde_json::from_value(object).expect("a cron job")
}

/// A Job that was created for a minute of the hour; `end` is the condition of one that has ended.
fn job(minute: u8, end: &str) -> Arc<Job> {
    let mut job = json!({
        "metadata": {"name": format!("tick-{minute}"), "namespace": "default", "uid": format!("u{minute}"),
            "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
        "status": {"conditions": [{"type": end, "status": "True"}]},
    });
    if end == "Complete" {
        job["status"]["completionTime"] = json!(format!("2026-01-01T00:{minute:02}:30Z"));
    }
    Arc::new(serde_json::from_value(job).expect("a job"))
}

fn active(cron_job: &mut CronJob, jobs: &[&Arc<Job>]) {
    let references = jobs.iter().map(|job| job.object_ref(&())).collect();
    cron_job.status.get_or_insert_default().active = Some(references);
}

fn decided(cron_job: &CronJob, jobs: &[Arc<Job>], now: &str) -> CronJobDecision {
    let now = format!("2026-01-01T{now}Z").parse().expect("a time");
    decide(&CronJobState { cron_job, jobs, now })
}

fn due(decision: &CronJobDecision) -> Option<String> {
    decision.create.map(|at| timestamp::seconds(at)[11..19].to_owned())
}

#[test]
fn a_job_is_created_at_each_time() {
    let new = cron_job(json!({}), None);
    let early = decided(&new, &[], "00:04:50");
    assert_eq!((due(&early), early.next_look), (None, Some(Duration::from_secs(10))));
    assert_eq!(due(&decided(&new, &[], "00:05:00")).as_deref(), Some("00:05:00"));
    let used = cron_job(json!({}), Some("2026-01-01T00:05:00Z"));
    assert_eq!(due(&decided(&used, &[], "00:05:01")), None);
    assert_eq!(
        due(&decided(&used, &[], "00:17:00")).as_deref(),
        Some("00:15:00"),
        "only the latest time is made up for"
    );
    assert_eq!(due(&decided(&cron_job(json!({"suspend": true}), None), &[], "00:05:00")), None);
}

#[test]
fn a_deadline_limits_what_is_made_up_for() {
    let strict = cron_job(json!({"startingDeadlineSeconds": 60}), None);
    assert_eq!(due(&decided(&strict, &[], "00:05:59")).as_deref(), Some("00:05:00"));
    assert_eq!(due(&decided(&strict, &[], "00:06:01")), None);
}

#[test]
fn many_missed_times_are_reported() {
    let decision = decided(&cron_job(json!({"schedule": "* * * * *"}), None), &[], "03:00:00");
    assert_eq!(due(&decision).as_deref(), Some("03:00:00"));
    assert_eq!(decision.events.iter().map(|(_, reason, _)| *reason).collect::<Vec<_>>(), ["TooManyMissedTimes"]);
}

#[test]
fn the_concurrency_policy_is_respected() {
    let running = [job(5, "")];
    for (policy, created, deleted) in
        [("Allow", Some("00:10:00"), vec![]), ("Forbid", None, vec![]), ("Replace", Some("00:10:00"), vec!["tick-5"])]
    {
        let mut cron_job = cron_job(json!({"concurrencyPolicy": policy}), Some("2026-01-01T00:05:00Z"));
        active(&mut cron_job, &[&running[0]]);
        let decision = decided(&cron_job, &running, "00:10:00");
        assert_eq!(
            (due(&decision).as_deref(), decision.delete),
            (created, deleted.into_iter().map(str::to_owned).collect()),
            "{policy}"
        );
        assert_eq!(decision.status.active.is_none(), policy == "Replace", "{policy}");
    }
}

#[test]
fn jobs_that_have_ended_are_forgotten_and_deleted_in_time() {
    let jobs = [job(5, "Complete"), job(10, "Failed"), job(15, "Complete"), job(20, "")];
    let mut cron_job = cron_job(json!({}), Some("2026-01-01T00:20:00Z"));
    let gone = job(1, "");
    active(&mut cron_job, &[&gone, &jobs[2], &jobs[3]]);
    let decision = decided(&cron_job, &jobs, "00:21:00");
    assert_eq!(decision.delete, ["tick-5"]);
    let names: Vec<_> = decision.status.active.iter().flatten().filter_map(|job| job.name.as_deref()).collect();
    assert_eq!(names, ["tick-20"]);
    let reasons: Vec<_> = decision.events.iter().map(|(_, reason, _)| *reason).collect();
    assert_eq!(reasons, ["MissingJob", "SawCompletedJob"]);
    let last = decision.status.last_successful_time.map(|time| timestamp::seconds(time.0));
    assert_eq!(last.as_deref(), Some("2026-01-01T00:15:30Z"));
}

#[test]
fn a_job_is_named_after_its_time() {
    let at = "2026-01-01T00:05:00Z".parse().expect("a time");
    let job = new_job(&cron_job(json!({}), None), at).expect("a job");
    assert_eq!(job.name_any(), "tick-29453765");
    assert!(owned_by(&job.metadata, "cron"));
    assert_eq!(
        (job.labels()["app"].as_str(), job.annotations()[SCHEDULED_FOR].as_str()),
        ("tick", "2026-01-01T00:05:00Z")
    );
}
