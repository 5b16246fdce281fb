//! Passes wakes on to whoever drives a connection.
//!
//! hyper's halves wake each other through channels. While both are being polled by one task, that should mean one more
//! round for them and not one more for the whole task, its client's connection included.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// Where wakes go.
#[derive(Debug, Default)]
pub(super) struct Relay {
    driver: Mutex<Option<Waker>>,
    polling: AtomicBool,
    woken: AtomicBool,
}

impl Relay {
    /// `driver` is polling, and is woken from now on. Until [`Relay::end`], wakes are remembered instead.
    pub(super) fn begin(&self, driver: &Waker) {
        match &mut *self.driver.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(known) => known.clone_from(driver),
            none => *none = Some(driver.clone()),
        }
        self.woken.store(false, SeqCst);
        self.polling.store(true, SeqCst);
    }

    /// Whether there was a wake since this was asked last.
    pub(super) fn was_woken(&self) -> bool {
        self.woken.load(SeqCst) && self.woken.swap(false, SeqCst)
    }

    /// The driver polls no more.
    pub(super) fn end(&self) {
        self.polling.store(false, SeqCst);
    }

    /// Nobody drives any more.
    pub(super) fn forget(&self) {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polling.load(SeqCst) {
            self.woken.store(true, SeqCst);
        } else if let Some(driver) = &*self.driver.lock().unwrap_or_else(PoisonError::into_inner) {
            driver.wake_by_ref();
        }
    }
}
