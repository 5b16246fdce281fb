//! StatefulSets, DaemonSets, Jobs and CronJobs with the real API server, Endpoints, and objects without effect.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, Event, PersistentVolumeClaim};

use super::*;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

impl Cluster {
    /// Returns the names of all pods, in order.
    async fn pod_names(&self) -> Vec<String> {
        list(&self.api::<Pod>()).await.iter().map(|pod| pod.name_any()).collect()
    }

    /// Sets the phase of every pod that has not ended.
    async fn end_pods(&self, phase: &str) {
        let pods = self.api::<Pod>();
        for pod in list(&pods).await.iter().filter(|pod| !pod_state::finished(pod)) {
            let patch = Patch::Merge(json!({"status": {"phase": phase}}));
            let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end() {
    let cluster = Cluster::start().await;
    let jobs = cluster.api::<Job>();
    let mut pod = template("i");
    pod["spec"]["restartPolicy"] = json!("Never");
    let spec = json!({"completions": 3, "parallelism": 2, "ttlSecondsAfterFinished": 1, "template": pod});
    create(&jobs, json!({"metadata": {"name": "work"}, "spec": spec})).await;
    eventually("two pods", || async { (cluster.pod_names().await.len() == 2).then_some(()) }).await;
    let pods = list(&cluster.api::<Pod>()).await;
    assert_eq!(pods[0].labels()["batch.kubernetes.io/job-name"], "work");
    assert!(pods[0].name_any().starts_with("work-"));
    let job = eventually("the end", || async {
        cluster.end_pods("Succeeded").await;
        jobs.get("work").await.ok().filter(|job| super::job::succeeded(job) == Some(true))
    })
    .await;
    let status = job.status.expect("a status");
    assert_eq!((status.succeeded, status.active, status.failed), (Some(3), None, None));
    eventually("the deletion of the Job and its pods", || async {
        cluster.finish_deleted().await;
        let gone = jobs.get_opt("work").await.expect("asked").is_none();
        (gone && cluster.pod_names().await.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_starts_updates_and_shrinks_in_order() {
    let cluster = Cluster::start().await;
    let sets = cluster.api::<StatefulSet>();
    let spec = |image: &str, replicas: i32| json!({"spec": {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "x"}}, "template": template(image)}});
    let mut object = spec("one", 2);
    object["metadata"] = json!({"name": "db"});
    create(&sets, object).await;
    eventually("the first pod", || async { (cluster.pod_names().await == ["db-0"]).then_some(()) }).await;
    let settled = |replicas: i32, image: &'static str| {
        let (cluster, sets) = (&cluster, &sets);
        move || async move {
            cluster.make_ready().await;
            cluster.finish_deleted().await;
            let status = sets.get("db").await.expect("asked").status?;
            let counts = [status.replicas, status.ready_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0)];
            let images: Vec<_> = list(&cluster.api::<Pod>()).await.into_iter().filter_map(|pod| pod.spec).collect();
            let same = images.iter().all(|spec| spec.containers[0].image.as_deref() == Some(image));
            (counts == [replicas; 3] && status.current_revision == status.update_revision && same).then_some(())
        }
    };
    eventually("two pods", settled(2, "one")).await;
    assert_eq!(cluster.pod_names().await, ["db-0", "db-1"]);
    sets.patch("db", &PatchParams::default(), &Patch::Merge(spec("two", 2))).await.expect("changed");
    eventually("the update", settled(2, "two")).await;
    assert_eq!(list(&cluster.api::<ControllerRevision>()).await.len(), 2);
    sets.patch("db", &PatchParams::default(), &Patch::Merge(spec("one", 1))).await.expect("changed");
    eventually("the first template and one pod", settled(1, "one")).await;
    assert_eq!(cluster.pod_names().await, ["db-0"]);
    let revisions = list(&cluster.api::<ControllerRevision>()).await;
    let mut numbers: Vec<i64> = revisions.iter().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "an earlier template is the newest revision again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_follows_the_nodes() {
    let cluster = Cluster::start().await;
    let spec = json!({"selector": {"matchLabels": {"app": "x"}}, "template": template("one")});
    create::<DaemonSet>(&cluster.api(), json!({"metadata": {"name": "agent"}, "spec": spec})).await;
    let on = |wanted: &'static [&'static str]| {
        let cluster = &cluster;
        move || async move {
            cluster.make_ready().await;
            cluster.finish_deleted().await;
            let mut nodes: Vec<String> =
                list(&cluster.api::<Pod>()).await.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
            nodes.sort();
            (nodes == wanted).then_some(())
        }
    };
    eventually("a pod on each node", on(&["n-a", "n-b"])).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    create(&nodes, json!({"metadata": {"name": "n-c"}})).await;
    eventually("a pod on the new node", on(&["n-a", "n-b", "n-c"])).await;
    nodes.delete("n-b", &kube::api::DeleteParams::default()).await.expect("deleted");
    eventually("no pod without a node", on(&["n-a", "n-c"])).await;
    eventually("the status", || async {
        let status = cluster.api::<DaemonSet>().get("agent").await.expect("asked").status?;
        ((status.desired_number_scheduled, status.number_available) == (2, Some(2))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_makes_up_for_a_missed_time() {
    let cluster = Cluster::start().await;
    let cron_jobs = cluster.api::<CronJob>();
    let mut pod = template("i");
    pod["spec"]["restartPolicy"] = json!("Never");
    let spec =
        json!({"schedule": "@hourly", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {"template": pod}}});
    create(&cron_jobs, json!({"metadata": {"name": "tick"}, "spec": spec})).await;
    let past = Patch::Merge(json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}));
    cron_jobs.patch_status("tick", &PatchParams::default(), &past).await.expect("patched");
    let job = eventually("a Job", || async { list(&cluster.api::<Job>()).await.into_iter().next() }).await;
    assert!(job.name_any().starts_with("tick-"));
    let active = || async {
        let status = cron_jobs.get("tick").await.expect("asked").status?;
        Some((status.active.unwrap_or_default().len(), status.last_successful_time.is_some()))
    };
    eventually("an active Job", || async { active().await.filter(|found| *found == (1, false)) }).await;
    eventually("its end", || async {
        cluster.end_pods("Succeeded").await;
        active().await.filter(|found| *found == (0, true))
    })
    .await;
    assert_eq!(list(&cluster.api::<Job>()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_derived_and_mirrored() {
    let cluster = Cluster::start().await;
    let (services, endpoints) = (cluster.api::<Service>(), cluster.api::<Endpoints>());
    create(
        &services,
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}}),
    )
    .await;
    eventually("the service account of pods", || async {
        cluster.api::<ServiceAccount>().get_opt("default").await.expect("asked")
    })
    .await;
    let mut pod = template("i");
    pod["metadata"]["name"] = json!("web");
    create(&cluster.api::<Pod>(), pod).await;
    eventually("derived Endpoints", || async {
        cluster.make_ready().await;
        let found = endpoints.get_opt("web").await.expect("asked")?;
        found.subsets?.first()?.addresses.as_ref()?.first().filter(|address| address.ip == "10.244.0.2").cloned()
    })
    .await;
    services.delete("web", &kube::api::DeleteParams::default()).await.expect("deleted");
    eventually("no Endpoints without a Service", || async {
        endpoints.get_opt("web").await.expect("asked").is_none().then_some(())
    })
    .await;

    create(&services, json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 80}]}})).await;
    let subsets = json!([{"addresses": [{"ip": "203.0.113.99"}], "ports": [{"port": 80}]}]);
    create(&endpoints, json!({"metadata": {"name": "outside"}, "subsets": subsets})).await;
    let mirrored = || async {
        let slices = list(&cluster.api::<EndpointSlice>()).await;
        slices
            .into_iter()
            .find(|slice| slice.labels().get(endpoint_slice::SERVICE_NAME).is_some_and(|name| name == "outside"))
    };
    let slice = eventually("a mirrored slice", mirrored).await;
    assert_eq!(slice.endpoints[0].addresses, ["203.0.113.99"]);
    endpoints.delete("outside", &kube::api::DeleteParams::default()).await.expect("deleted");
    eventually("no slice without Endpoints", || async { mirrored().await.is_none().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_reports_an_object_without_effect() {
    let cluster = Cluster::start().await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    create::<PersistentVolumeClaim>(&cluster.api(), json!({"metadata": {"name": "data"}, "spec": spec})).await;
    let event = eventually("an Event", || async {
        let events = list(&cluster.api::<Event>()).await;
        events.into_iter().find(|event| event.reason.as_deref() == Some("NoEffectInLab"))
    })
    .await;
    assert_eq!(event.involved_object.name.as_deref(), Some("data"));
    assert_eq!(event.message.as_deref(), Some("No effect in a lab: PersistentVolumeClaim objects"));
}
