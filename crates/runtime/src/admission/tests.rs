use std::net::Ipv4Addr;

use tokio::task::JoinHandle;

use super::*;

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// Serves a connection that never ends. Returns its task.
fn silent(admission: &Admission, from: IpAddr) -> Option<JoinHandle<()>> {
    let mut task = None;
    admission.admit(from, |admitted| {
        let spawned = tokio::spawn(async move {
            let _admitted = admitted;
            std::future::pending().await
        });
        let handle = spawned.abort_handle();
        task = Some(spawned);
        handle
    });
    task
}

fn limits() -> Limits {
    Limits { connections: 100, pending: 10, deadline: Duration::from_secs(5), ..Limits::default() }
}

#[tokio::test]
async fn a_displaced_connection_ends_and_a_new_one_is_served() {
    let admission = Admission::new(limits());
    let mut silent: Vec<_> = (0..10).map(|_| silent(&admission, ONE).unwrap()).collect();
    let (sender, served) = tokio::sync::oneshot::channel();
    assert!(admission.admit(TWO, |admitted| {
        tokio::spawn(async move {
            admitted.prove();
            let _ = sender.send(());
        })
        .abort_handle()
    }));
    served.await.unwrap();
    assert!(silent.remove(0).await.unwrap_err().is_cancelled(), "the oldest one of the other source");
    assert_eq!(admission.open().1, 9);
    silent.iter().for_each(|task| assert!(!task.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_proves_nothing_ends_at_the_deadline() {
    let admission = Admission::new(limits());
    tokio::spawn(admission.clone().enforce_deadline());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = Instant::now();
    assert!(silent(&admission, ONE).unwrap().await.unwrap_err().is_cancelled());
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(admission.open(), (0, 0));
}

#[tokio::test]
async fn a_connection_in_use_is_not_closed() {
    let admission = Admission::new(Limits { connections: 10, ..limits() });
    let (sender, mut uses) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..8 {
        let sender = sender.clone();
        admission.admit(ONE, |admitted| {
            tokio::spawn(async move {
                admitted.prove();
                let _ = sender.send(Use::of(Arc::new(admitted)));
                std::future::pending::<()>().await
            })
            .abort_handle()
        });
    }
    let mut held = Vec::new();
    while held.len() < 8 {
        held.push(uses.recv().await.unwrap());
    }
    assert!(silent(&admission, ONE).is_none(), "the source has its share, in use");
    held.pop();
    assert!(silent(&admission, ONE).is_some(), "an idle one makes room");
    assert!(silent(&admission, TWO).is_some());
}

#[tokio::test]
async fn what_happens_is_exported() {
    let (admission, registry) = (Admission::new(Limits { pending: 1, ..limits() }), Registry::new());
    admission.observe(&registry, "inbound");
    let _tasks = [silent(&admission, ONE), silent(&admission, TWO)];
    let text = registry.render();
    assert!(text.contains(r#"isthmus_connections_open{listener="inbound",state="pending"} 1"#), "{text}");
    assert!(text.contains(r#"isthmus_connections_limited_total{listener="inbound",outcome="displaced_pending"} 1"#));
}

/// Workers share an admission: whatever they do at a time, no more are admitted than there are places.
#[test]
fn limits_are_exact_across_threads() {
    let admission = Admission::new(Limits { connections: 8, ..limits() });
    std::thread::scope(|scope| {
        for number in 0..4 {
            let admission = &admission;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..2000 {
                        let from = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
                        admission.admit(from, |admitted| {
                            tokio::spawn(async move {
                                admitted.prove();
                                let _use = Use::of(&admitted);
                                assert!(admitted.shared.lock().len() <= 8);
                                tokio::task::yield_now().await;
                            })
                            .abort_handle()
                        });
                        tokio::task::yield_now().await;
                    }
                });
            });
        }
    });
    assert_eq!(admission.open(), (0, 0));
}
