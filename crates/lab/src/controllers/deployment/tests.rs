use super::*;

fn deployment(spec: Value) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}},
        },
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut object["spec"], spec) {
        into.extend(more);
    }
    serde_json::from_value(object).expect("a deployment")
}

fn set_of(deployment: &Deployment, revision: i64, wanted: i32, available: i32) -> ReplicaSet {
    let hash = template_hash(&deployment.spec.as_ref().expect("spec").template);
    let mut set = new_set(deployment, &format!("web-{hash}"), &hash, wanted, revision);
    set.status = serde_json::from_value(json!({
        "replicas": wanted, "readyReplicas": available, "availableReplicas": available,
    }))
    .expect("a status");
    set
}

fn decided(deployment: &Deployment, sets: Vec<ReplicaSet>) -> Vec<DeploymentAction> {
    let sets: Vec<Arc<ReplicaSet>> = sets.into_iter().map(Arc::new).collect();
    let now = "2026-01-01T00:00:10Z".parse().expect("a time");
    decide(&DeploymentState { deployment, sets: &sets, old_pods: true, now })
}

fn image(name: &str) -> Value {
    json!({"template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": name}]}}})
}

fn status_of(actions: &[DeploymentAction]) -> Value {
    let status = actions.iter().find_map(|action| match action {
        DeploymentAction::Status(status) => Some(status.clone()),
        _ => None,
    });
    status.unwrap_or(Value::Null)
}

#[test]
fn first_set_is_created_with_owner_hash_and_revision() {
    let deployment = deployment(json!({}));
    let actions = decided(&deployment, vec![]);
    let Some(DeploymentAction::Create(set)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(set.spec.as_ref().and_then(|spec| spec.replicas), Some(2));
    assert_eq!(set.annotations()[REVISION], "1");
    assert!(owned_by(&set.metadata, "d"));
    let hash = &set.labels()[TEMPLATE_HASH];
    let spec = set.spec.as_ref().expect("spec");
    assert_eq!(spec.selector.match_labels.as_ref().expect("labels")[TEMPLATE_HASH], *hash);
    assert!(actions.contains(&DeploymentAction::Annotate("1".into())));
    let template = spec.template.as_ref().expect("template");
    assert_eq!(template_hash(template), *hash, "the label does not change the hash, so undo finds the old set");
}

#[test]
fn an_empty_map_hashes_like_a_missing_one() {
    let template = |annotations: Value| {
        let template =
            json!({"metadata": {"labels": {"app": "web"}, "annotations": annotations}, "spec": {"containers": []}});
        template_hash(&serde_json::from_value(template).expect("a template"))
    };
    assert_eq!(template(json!({})), template(Value::Null));
    assert_ne!(template(json!({"a": "b"})), template(Value::Null));
}

#[test]
fn a_changed_template_is_rolled_out_and_undone() {
    let one = deployment(image("one"));
    let two = deployment(image("two"));
    let actions = decided(&two, vec![set_of(&one, 1, 2, 2)]);
    let Some(DeploymentAction::Create(set)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!((set.spec.as_ref().and_then(|s| s.replicas), set.annotations()[REVISION].as_str()), (Some(1), "2"));

    // Back to the first template: its set is used again, with a new revision.
    let actions = decided(&one, vec![set_of(&one, 1, 0, 0), set_of(&two, 2, 2, 2)]);
    let name = set_of(&one, 1, 0, 0).name_any();
    assert!(actions.contains(&DeploymentAction::Scale { name: name.clone(), replicas: 1 }), "{actions:?}");
    assert!(actions.iter().any(
        |action| matches!(action, DeploymentAction::AnnotateSet { name: n, annotations } if *n == name && annotations[REVISION] == "3")
    ));
}

#[test]
fn a_paused_deployment_changes_only_its_size() {
    let one = deployment(image("one"));
    let mut spec = image("two");
    spec["paused"] = json!(true);
    spec["replicas"] = json!(4);
    let two = deployment(spec);
    let old = set_of(&one, 1, 2, 2);
    let actions = decided(&two, vec![old.clone()]);
    assert!(actions.contains(&DeploymentAction::Scale { name: old.name_any(), replicas: 4 }), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, DeploymentAction::Create(_))));
    assert_eq!(status_of(&actions)["conditions"][1]["reason"], "DeploymentPaused");
}

#[test]
fn history_is_bounded() {
    let mut two = deployment(image("two"));
    two.spec.as_mut().expect("spec").revision_history_limit = Some(1);
    let old: Vec<ReplicaSet> = (1..=3).map(|n| set_of(&deployment(image(&format!("old-{n}"))), n, 0, 0)).collect();
    let names: Vec<String> = old.iter().map(ResourceExt::name_any).collect();
    let mut sets = old;
    sets.push(set_of(&two, 4, 2, 2));
    let deleted: Vec<String> = decided(&two, sets)
        .into_iter()
        .filter_map(|action| match action {
            DeploymentAction::Delete(name) => Some(name),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, names[..2]);
}

#[test]
fn the_status_reports_progress_and_settles() {
    let mut deployment = deployment(json!({"progressDeadlineSeconds": 5}));
    let set = |available| set_of(&deployment, 1, 2, available);
    let status = status_of(&decided(&deployment, vec![set(1)]));
    assert_eq!((&status["readyReplicas"], &status["unavailableReplicas"]), (&json!(1), &json!(1)));
    assert_eq!(status["conditions"][0]["status"], "False");
    assert_eq!(status["conditions"][1]["reason"], "ReplicaSetUpdated");

    let status = status_of(&decided(&deployment, vec![set(2)]));
    assert_eq!(status["conditions"][0]["reason"], "MinimumReplicasAvailable");
    assert_eq!(status["conditions"][1]["reason"], "NewReplicaSetAvailable");
    let full = set(2);
    let half = set(1);
    deployment.status = serde_json::from_value(status).expect("a status");
    deployment.metadata.annotations = Some([(REVISION.to_owned(), "1".to_owned())].into());
    assert_eq!(decided(&deployment, vec![full]), [], "nothing to do when all is as it should be");

    let mut stuck = status_of(&decided(&deployment, vec![half.clone()]));
    stuck["conditions"][1]["lastUpdateTime"] = json!("2026-01-01T00:00:01Z");
    deployment.status = serde_json::from_value(stuck).expect("a status");
    let status = status_of(&decided(&deployment, vec![half]));
    assert_eq!(status["conditions"][1]["reason"], "ProgressDeadlineExceeded");
}
