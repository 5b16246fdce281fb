//! The attackers inside pods.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub mod api_server;
pub mod connections;
mod identity_of;
pub mod peers;
pub mod reviews;
pub mod subscriptions;
pub mod uploads;

/// What an attacker does, and for how long.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// What it does.
    pub weapon: Weapon,
    /// For how long.
    pub seconds: f64,
}

/// What an attacker does.
#[derive(Debug, Serialize, Deserialize)]
pub enum Weapon {
    /// Opens connections and keeps them open.
    Connections(connections::Connections),
    /// Sends admission reviews.
    Reviews(reviews::Reviews),
    /// Uploads to an application that reads slowly.
    Uploads(uploads::Uploads),
    /// Sends requests with different peer headers.
    Peers(peers::Peers),
    /// Opens discovery streams.
    Subscriptions(subscriptions::Subscriptions),
    /// Serves the API of a hostile cluster.
    ApiServer(api_server::ApiServer),
}

/// Counts of what came of an attack.
#[derive(Debug, Default)]
pub struct Tally {
    /// The connections that were opened.
    pub opened: AtomicU64,
    /// The connections that could not be opened.
    pub refused: AtomicU64,
    /// The connections that the other side closed.
    pub closed: AtomicU64,
    answers: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Counts an answer.
    pub fn answer(&self, answer: impl Into<String>) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(answer.into()).or_default() += 1;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [opened, refused, closed] = [&self.opened, &self.refused, &self.closed].map(|count| count.load(Relaxed));
        write!(f, "{opened} connections opened, {refused} refused, {closed} closed by the other side")?;
        for (answer, count) in self.answers.lock().unwrap_or_else(PoisonError::into_inner).iter().take(8) {
            write!(f, ", {count} × {answer}")?;
        }
        Ok(())
    }
}

/// Obeys an order, in JSON, and prints what came of it.
pub async fn run(order: String) -> Result<()> {
    let order: Order = serde_json::from_str(&order)?;
    let tally: &'static Tally = Box::leak(Box::default());
    let attack = async {
        match order.weapon {
            Weapon::Connections(weapon) => weapon.run(tally).await,
            Weapon::Reviews(weapon) => weapon.run(tally).await,
            Weapon::Uploads(weapon) => weapon.run(tally).await,
            Weapon::Peers(weapon) => weapon.run(tally).await,
            Weapon::Subscriptions(weapon) => weapon.run(tally).await,
            Weapon::ApiServer(weapon) => weapon.run(tally).await,
        }
    };
    let done = tokio::time::timeout(Duration::from_secs_f64(order.seconds), attack).await;
    println!("{tally}");
    // An attack goes on until its time is over, so it returns only because it cannot begin.
    done.unwrap_or(Ok(()))
}
