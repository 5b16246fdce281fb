use super::*;
use crate::fake::Fake;

const VIRTUAL_SERVICES: &str = "/apis/networking.istio.io/v1/virtualservices";

fn state(name: &str, problems: &[(bool, &str)]) -> StatusOf {
    let problem =
        |(error, text): &(bool, &str)| RuleProblem { error: *error, code: "IST0101".into(), text: (*text).into() };
    let state = RuleState {
        kind: Kind::VirtualService,
        object: Key::new("default", name),
        generation: 2,
        refused: false,
        in_force: true,
        problems: problems.iter().map(problem).collect(),
    };
    StatusOf { state, enforcement: None }
}

/// The status of a policy of generation 2.
fn policy(enforcement: Enforcement) -> StatusOf {
    let of = state("a", &[]);
    StatusOf { state: RuleState { kind: Kind::PeerAuthentication, ..of.state }, enforcement: Some(enforcement) }
}

#[test]
fn a_policy_is_enforced_when_its_proxies_have_acknowledged_it() {
    let some = ProxyCount { acknowledged: 2, waiting: 1, away: 0 };
    let all = ProxyCount { acknowledged: 3, waiting: 0, away: 0 };
    let waiting = merged(&json!({}), &policy(Enforcement::Waiting(some)), "t1").expect("a status");
    let condition = |status: &Value| status["conditions"][1].clone();
    assert_eq!(condition(&waiting)["type"], "Enforced");
    assert_eq!(condition(&waiting)["status"], "False");
    assert_eq!(condition(&waiting)["message"], "acknowledged by 2 of 3 connected proxies");
    let done = merged(&waiting, &policy(Enforcement::InForce(all)), "t2").expect("a status");
    assert_eq!((&condition(&done)["status"], &condition(&done)["lastTransitionTime"]), (&json!("True"), &json!("t2")));
    assert_eq!(condition(&done)["observedGeneration"], 2);
    assert_eq!(merged(&done, &policy(Enforcement::InForce(all)), "t3"), None, "nothing differs");
    // A restarted controller waits for the proxies, which have it.
    assert_eq!(merged(&done, &policy(Enforcement::Waiting(some)), "t4"), None);
    let mut next = policy(Enforcement::Waiting(some));
    next.state.generation = 3;
    let status = merged(&done, &next, "t5").expect("a status");
    assert_eq!((&condition(&status)["status"], &status["observedGeneration"]), (&json!("False"), &json!(3)));
    let away = ProxyCount { away: 1, ..all };
    let status = merged(&json!({}), &policy(Enforcement::InForce(away)), "t6").expect("a status");
    assert_eq!(condition(&status)["message"], "in force in 3 of 3 connected proxies; not connected: 1");
}

fn with(of: &StatusOf, change: impl FnOnce(&mut RuleState)) -> StatusOf {
    let mut of = of.clone();
    change(&mut of.state);
    of
}

#[test]
fn a_status_is_due_when_it_differs_and_problems_come_first() {
    let mut written = Written::default();
    let (good, bad) = (state("a", &[]), state("b", &[(true, "x")]));
    let due = written.due(vec![good.clone(), bad.clone()]);
    assert_eq!(due, [bad.clone(), good.clone()]);
    written.note(&good);
    written.note(&bad);
    assert!(written.due(vec![good.clone(), bad.clone()]).is_empty());
    assert_eq!(written.due(vec![with(&good, |state| state.generation = 3)]).len(), 1);
    assert_eq!(written.due(vec![good, bad]).len(), 2, "an object that was gone is new");
}

#[tokio::test]
async fn a_status_is_written_once_and_keeps_the_conditions_of_others() {
    let west = Fake::start("t").await;
    let other = json!({"type": "Other", "status": "True"});
    west.put(
        VIRTUAL_SERVICES,
        json!({"metadata": {"name": "a", "namespace": "default", "generation": 2},
        "spec": {"hosts": ["a"]}, "status": {"conditions": [other]}}),
    );
    let client = west.client("t").await;
    write(client.clone(), &state("a", &[(true, "http[0]: no such host")])).await.unwrap();
    let status = west.get(VIRTUAL_SERVICES, "default", "a").unwrap()["status"].clone();
    assert_eq!((&status["conditions"][0], &status["observedGeneration"]), (&other, &json!(2)));
    let condition = &status["conditions"][1];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Reconciled"), &json!("True")));
    let message = &status["validationMessages"][0];
    assert_eq!((&message["type"]["code"], &message["level"]), (&json!("IST0101"), &json!("ERROR")));
    assert!(west.writes().iter().all(|write| write.ends_with("/virtualservices/a/status")), "{:?}", west.writes());
    write(client.clone(), &state("a", &[(true, "http[0]: no such host")])).await.unwrap();
    assert_eq!(west.writes().len(), 1, "nothing differs");
    let refused = with(&state("a", &[(true, "invalid")]), |state| state.refused = true);
    write(client.clone(), &refused).await.unwrap();
    let status = west.get(VIRTUAL_SERVICES, "default", "a").unwrap()["status"].clone();
    assert_eq!(
        (&status["conditions"][1]["status"], status["conditions"].as_array().unwrap().len()),
        (&json!("False"), 2)
    );
    // The object has changed since, or is gone.
    for of in [with(&state("a", &[]), |state| state.generation = 1), state("gone", &[])] {
        write(client.clone(), &of).await.unwrap();
    }
    assert_eq!(west.writes().len(), 2);
}
