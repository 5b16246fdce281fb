use serde_json::{Value, json};

use super::*;

fn job(spec: Value) -> Job {
    let mut object = json!({
        "metadata": {"name": "work", "namespace": "default", "uid": "job"},
        "spec": {
            "completions": 1, "parallelism": 1, "backoffLimit": 6,
            "template": {"metadata": {"labels": {"app": "work"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
        },
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut object["spec"], spec) {
        into.extend(more);
    }
    serde_json::from_value(object).expect("a job")
}

/// A pod; `marks`: s succeeded, f failed, d being deleted, r ready; a digit is its completion index.
fn pod(name: &str, marks: &str) -> Arc<Pod> {
    let has = |mark: char| marks.contains(mark);
    let phase = if has('s') {
        "Succeeded"
    } else if has('f') {
        "Failed"
    } else {
        "Running"
    };
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {}},
        "spec": {"containers": []}, "status": {"phase": phase},
    });
    if has('d') {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if has('r') {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    }
    if let Some(index) = marks.chars().find(char::is_ascii_digit) {
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = json!(index.to_string());
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).expect("a time")
}

/// A Job in time: its status and the pods that have ended.
struct Course {
    job: Job,
    ended: EndedPods,
}

impl Course {
    fn of(spec: Value) -> Self {
        Self { job: job(spec), ended: EndedPods::default() }
    }

    /// Decides with these pods, and stores the status.
    fn step(&mut self, seconds: i64, pods: &[(&str, &str)]) -> JobDecision {
        let pods: Vec<Arc<Pod>> = pods.iter().map(|(name, marks)| pod(name, marks)).collect();
        self.ended.note(&self.job, &pods, at(seconds));
        let decision = decide(&JobState { job: &self.job, pods: &pods, ended: &self.ended, now: at(seconds) });
        self.job.status = Some(decision.status.clone());
        decision
    }

    fn condition(&self, kind: &str) -> Option<String> {
        let conditions = self.job.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?.reason.clone()
    }
}

#[test]
fn a_job_creates_its_pods_and_completes() {
    let mut course = Course::of(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(course.step(0, &[]).create, [None, None]);
    let running = course.step(1, &[("a", "r"), ("b", "")]);
    assert_eq!((running.create.len(), running.delete.len()), (0, 0));
    assert_eq!((running.status.active, running.status.ready), (Some(2), Some(1)));
    assert_eq!(course.step(2, &[("a", "s"), ("b", "")]).create, [None], "one of two is left, one runs");
    let done = course.step(3, &[("a", "s"), ("b", "s"), ("c", "s")]);
    assert_eq!((done.status.succeeded, done.status.active), (Some(3), None));
    assert!(done.status.completion_time.is_some());
    assert_eq!(done.events, [("Normal", "Completed".to_owned(), "Job completed".to_owned())]);
    assert_eq!(course.condition("Complete").as_deref(), Some("CompletionsReached"));
    assert_eq!(course.condition("SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
    let after = course.step(4, &[]);
    assert_eq!((after.create.len(), after.events.len(), after.expired), (0, 0, false));
}

#[test]
fn a_succeeded_pod_counts_after_its_deletion() {
    let mut course = Course::of(json!({"completions": 2}));
    course.step(0, &[("a", "s")]);
    let decision = course.step(1, &[]);
    assert_eq!((decision.status.succeeded, decision.create.len()), (Some(1), 1));
}

#[test]
fn failed_pods_are_replaced_with_a_growing_delay_up_to_the_limit() {
    let mut course = Course::of(json!({"backoffLimit": 2}));
    let first = course.step(0, &[("a", "f")]);
    assert_eq!((first.create.len(), first.next_look), (0, Some(Duration::from_secs(1))));
    assert_eq!(course.step(1, &[("a", "f")]).create, [None]);
    let second = course.step(2, &[("a", "f"), ("b", "f")]);
    assert_eq!((second.create.len(), second.next_look), (0, Some(Duration::from_secs(2))));
    assert_eq!(course.step(4, &[("a", "f"), ("b", "f")]).create, [None]);
    let third = course.step(5, &[("a", "f"), ("b", "f"), ("c", "f")]);
    assert_eq!((third.create.len(), third.status.failed, third.status.completion_time), (0, Some(3), None));
    assert_eq!(course.condition("Failed").as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn a_job_that_fails_stops_its_pods_first() {
    let mut course = Course::of(json!({"parallelism": 2, "completions": 2, "backoffLimit": 0}));
    let failing = course.step(0, &[("a", "f"), ("b", "")]);
    assert_eq!((failing.delete, failing.deleted_fail), (vec!["b".to_owned()], true));
    assert_eq!(course.condition("FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(course.condition("Failed"), None);
    let stopping = course.step(1, &[("a", "f"), ("b", "d")]);
    assert_eq!((stopping.status.terminating, course.condition("Failed")), (Some(1), None));
    let failed = course.step(2, &[("a", "f")]);
    assert_eq!((failed.status.failed, failed.status.terminating), (Some(2), Some(0)));
    assert_eq!(course.condition("Failed").as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn restarts_count_towards_the_limit() {
    let mut job = job(json!({"backoffLimit": 2}));
    job.spec.as_mut().expect("a spec").template.spec.get_or_insert_default().restart_policy =
        Some("OnFailure".to_owned());
    for (restarts, fails) in [(1, false), (2, true)] {
        let mut pod = Pod::clone(&pod("a", ""));
        pod.status.get_or_insert_default().container_statuses = serde_json::from_value(json!([
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": restarts},
        ]))
        .expect("statuses");
        let pods = [Arc::new(pod)];
        let decision = decide(&JobState { job: &job, pods: &pods, ended: &EndedPods::default(), now: at(0) });
        assert_eq!(!decision.delete.is_empty(), fails, "{restarts} restarts");
    }
}

#[test]
fn a_job_fails_after_its_deadline() {
    let mut course = Course::of(json!({"activeDeadlineSeconds": 10}));
    assert_eq!(course.step(0, &[("a", "")]).next_look, Some(Duration::from_secs(10)));
    assert_eq!(course.step(4, &[("a", "")]).next_look, Some(Duration::from_secs(6)));
    assert_eq!(course.step(10, &[("a", "")]).delete, ["a"]);
    course.step(11, &[]);
    assert_eq!(course.condition("Failed").as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_job_that_has_ended_expires() {
    let mut course = Course::of(json!({"ttlSecondsAfterFinished": 5}));
    course.step(0, &[("a", "s")]);
    let waiting = course.step(2, &[("a", "s")]);
    assert_eq!((waiting.expired, waiting.next_look), (false, Some(Duration::from_secs(3))));
    assert!(course.step(5, &[("a", "s")]).expired);
}

#[test]
fn each_index_has_a_pod_until_it_has_succeeded() {
    let mut course = Course::of(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3}));
    assert_eq!(course.step(0, &[]).create, [Some(0), Some(1), Some(2)]);
    let decision = course.step(1, &[("a", "0s"), ("b", "1f"), ("c", "2")]);
    assert_eq!((decision.create.len(), decision.status.completed_indexes.as_deref()), (0, Some("0")));
    assert_eq!(course.step(2, &[("a", "0s"), ("b", "1f"), ("c", "2")]).create, [Some(1), Some(3)]);
    let decision = course.step(3, &[("a", "0s"), ("d", "1s"), ("c", "2s"), ("e", "3s")]);
    assert_eq!((decision.status.succeeded, decision.status.failed), (Some(4), Some(1)));
    assert_eq!(decision.status.completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(course.condition("Complete").as_deref(), Some("CompletionsReached"));
}

#[test]
fn ranges_are_as_kubernetes_writes_them() {
    for (indexes, text) in [(vec![], ""), (vec![3], "3"), (vec![0, 1], "0,1"), (vec![0, 1, 2, 5, 7, 8], "0-2,5,7,8")] {
        assert_eq!(ranges(&indexes.into_iter().collect()), text);
    }
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew() {
    let mut course = Course::of(json!({"suspend": true}));
    let decision = course.step(0, &[("a", "")]);
    assert_eq!((decision.delete, decision.deleted_fail, decision.create.len()), (vec!["a".to_owned()], false, 0));
    assert_eq!((course.condition("Suspended").as_deref(), decision.status.start_time), (Some("JobSuspended"), None));
    course.ended.disregard([pod("a", "")].iter());
    let stopping = course.step(1, &[("a", "d")]);
    assert_eq!((stopping.status.failed, stopping.events.len()), (None, 0), "a pod of a suspended Job does not fail");
    course.job.spec.as_mut().expect("a spec").suspend = Some(false);
    let resumed = course.step(2, &[]);
    assert_eq!((resumed.create.len(), course.condition("Suspended")), (1, None));
    assert_eq!(resumed.status.start_time.map(|time| time.0), Some(at(2)));
}

#[test]
fn a_smaller_parallelism_deletes_pods_that_do_not_fail() {
    let mut course = Course::of(json!({"completions": 5, "parallelism": 1}));
    let decision = course.step(0, &[("a", "r"), ("b", "")]);
    assert_eq!((decision.delete, decision.deleted_fail), (vec!["b".to_owned()], false));
}

#[test]
fn without_completions_one_success_ends_the_work() {
    let mut course = Course::of(json!({"completions": null, "parallelism": 2}));
    assert_eq!(course.step(0, &[]).create.len(), 2);
    let decision = course.step(1, &[("a", "s"), ("b", "")]);
    assert_eq!((decision.create.len(), decision.delete.len(), course.condition("Complete")), (0, 0, None));
    course.step(2, &[("a", "s"), ("b", "f")]);
    assert!(course.condition("Complete").is_some());
}

#[test]
fn a_pod_that_is_being_deleted_is_replaced_by_policy() {
    let mut course = Course::of(json!({}));
    let decision = course.step(0, &[("a", "d")]);
    assert_eq!((decision.status.failed, decision.status.terminating), (Some(1), Some(1)));
    assert_eq!(course.step(1, &[("a", "d")]).create.len(), 1);
    let mut course = Course::of(json!({"podReplacementPolicy": "Failed"}));
    let decision = course.step(0, &[("a", "d")]);
    assert_eq!((decision.status.failed, decision.create.len()), (None, 0));
    assert_eq!(course.step(1, &[("a", "df")]).status.failed, Some(1));
}

#[test]
fn a_pod_of_an_indexed_job_knows_its_index() {
    let indexed = new_pod(&job(json!({"completionMode": "Indexed"})), Some(3)).expect("a pod");
    assert_eq!(indexed.metadata.generate_name.as_deref(), Some("work-3-"));
    assert!(owned_by(&indexed.metadata, "job"));
    assert_eq!(index_of(&indexed), Some(3));
    let spec = indexed.spec.expect("a spec");
    assert_eq!(spec.hostname.as_deref(), Some("work-3"));
    assert_eq!(spec.containers[0].env.as_ref().map(|env| env[0].name.as_str()), Some("JOB_COMPLETION_INDEX"));
    let plain = new_pod(&job(json!({})), None).expect("a pod");
    assert_eq!((plain.metadata.generate_name.as_deref(), plain.spec.expect("a spec").hostname), (Some("work-"), None));
}
