//! Lists: pages, past revisions, selectors.

use kube::api::{ListParams, PostParams, VersionMatch};

use crate::cluster::{Cluster, config_map, rejection};

#[tokio::test]
async fn all_pages_are_of_one_revision() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    for name in ["a", "b", "c", "d"] {
        api.create(&PostParams::default(), &config_map(name, "1")).await.expect("creates");
    }
    let first = api.list(&ListParams::default().limit(2)).await.expect("lists");
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    // The later pages do not show changes after the first page.
    api.delete("c", &Default::default()).await.expect("deletes");
    api.create(&PostParams::default(), &config_map("e", "1")).await.expect("creates");
    let mut names: Vec<String> = first.items.iter().filter_map(|map| map.metadata.name.clone()).collect();
    let mut next = first.metadata.continue_.clone().expect("there is more");
    loop {
        let page = api.list(&ListParams::default().limit(2).continue_token(&next)).await.expect("lists");
        assert_eq!(page.metadata.resource_version, first.metadata.resource_version);
        names.extend(page.items.iter().filter_map(|map| map.metadata.name.clone()));
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(more) => next = more,
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "kube-root-ca.crt"]);
}

#[tokio::test]
async fn old_revisions_are_expired() {
    let cluster = Cluster::remembering(3).await;
    let api = cluster.config_maps();
    for name in ["a", "b", "c"] {
        api.create(&PostParams::default(), &config_map(name, "1")).await.expect("creates");
    }
    let first = api.list(&ListParams::default().limit(1)).await.expect("lists");
    let revision = first.metadata.resource_version.clone().expect("has a revision");
    for name in ["d", "e", "f", "g"] {
        api.create(&PostParams::default(), &config_map(name, "1")).await.expect("creates");
    }
    let next = first.metadata.continue_.expect("there is more");
    let (code, reason, _) = rejection(api.list(&ListParams::default().limit(1).continue_token(&next)).await);
    assert_eq!((code, reason.as_str()), (410, "Expired"));
    let exact = ListParams::default().at(&revision).matching(VersionMatch::Exact);
    assert_eq!(rejection(api.list(&exact).await).0, 410);
}

#[tokio::test]
async fn selectors_filter_lists() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    for (name, tier) in [("a", "web"), ("b", "db")] {
        let mut map = config_map(name, "1");
        map.metadata.labels = Some([("tier".to_owned(), tier.to_owned())].into());
        api.create(&PostParams::default(), &map).await.expect("creates");
    }
    let names = async |params: ListParams| -> Vec<String> {
        let list = api.list(&params).await.expect("lists");
        list.items.into_iter().filter_map(|map| map.metadata.name).collect()
    };
    assert_eq!(names(ListParams::default().labels("tier in (web)")).await, ["a"]);
    assert_eq!(names(ListParams::default().fields("metadata.name=b")).await, ["b"]);
    assert_eq!(rejection(api.list(&ListParams::default().fields("data.key=1")).await).0, 400);
}
